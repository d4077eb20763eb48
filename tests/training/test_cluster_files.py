"""The manifest and the script that train on many machines."""

import os
import subprocess
from pathlib import Path

import pytest
import yaml
from command_lines import parse_with_config

from vop_jax.__main__ import COMMANDS

EXAMPLES = Path(__file__).parents[2] / "examples"
SCRIPT = EXAMPLES / "train_slurm.sh"
JOB = "4711"
# What stands in for SLURM: each writes down its arguments, as a line.
STUBS = {
    "srun": 'printf "%s\\t" srun "$@" >> "$LOG"; echo >> "$LOG"; exit "$STATUS"',
    "scontrol": 'echo "scontrol $*" >> "$LOG"',
    "squeue": 'echo "$STATE"',
}


@pytest.fixture
def jobset():
    return yaml.safe_load((EXAMPLES / "train_jobset.yaml").read_text())


def parts(manifest):
    """The job of a manifest, its pod and its container."""
    (jobs,) = manifest["spec"]["replicatedJobs"]
    job = jobs["template"]["spec"]
    pod = job["template"]["spec"]
    (container,) = pod["containers"]
    return job, pod, container


def test_the_pods_of_the_manifest_are_the_hosts_of_the_slice(jobset):
    job, pod, container = parts(jobset)
    selector = pod["nodeSelector"]
    assert selector["cloud.google.com/gke-tpu-accelerator"] == "tpu-v5-lite-podslice"
    across, along = selector["cloud.google.com/gke-tpu-topology"].split("x")
    chips = container["resources"]["limits"]["google.com/tpu"]
    assert job["completionMode"] == "Indexed"
    assert job["completions"] == job["parallelism"]
    assert job["completions"] * chips == int(across) * int(along) == 16
    network = jobset["spec"]["network"]
    assert network["enableDNSHostnames"]
    assert network["publishNotReadyAddresses"]
    assert network["subdomain"] == jobset["metadata"]["name"]
    (placement,) = jobset["metadata"]["annotations"].values()
    assert placement == "cloud.google.com/gke-nodepool"


def test_a_lost_pod_starts_all_again_and_a_mistake_none(jobset):
    job, pod, container = parts(jobset)
    policy = jobset["spec"]["failurePolicy"]
    assert policy["maxRestarts"] > 0
    (ends,) = policy["rules"]
    assert (ends["action"], ends["onJobFailureReasons"]) == (
        "FailJobSet",
        ["PodFailurePolicy"],
    )
    # Kubernetes takes a policy for pods only where it does not restart them itself.
    assert pod["restartPolicy"] == "Never"
    assert job["backoffLimit"] == 0
    (rule,) = job["podFailurePolicy"]["rules"]
    assert rule["action"] == "FailJob"
    codes = rule["onExitCodes"]
    assert (codes["containerName"], codes["values"]) == (container["name"], [2])
    assert pod["terminationGracePeriodSeconds"] >= 60


def test_the_manifest_trains_from_and_into_a_bucket(jobset, monkeypatch):
    monkeypatch.chdir(EXAMPLES.parent)
    job, pod, container = parts(jobset)
    assert "command" not in container, "the image's entry point is vop-jax"
    command, *arguments = container["args"]
    config, given = parse_with_config(COMMANDS[command], arguments)
    assert config.dataset == "msrvtt_9k"
    assert config.data_dir.startswith("gs://")
    assert given["workdir"].startswith("gs://")
    assert given["coordinator"] is None
    chips = container["resources"]["limits"]["google.com/tpu"]
    assert config.batch_size % (job["completions"] * chips) == 0
    (mount,) = container["volumeMounts"]
    assert config.backbone == mount["mountPath"]
    assert [x["name"] for x in pod["volumes"]] == [mount["name"]]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["train_jobset.yaml", "index_jobset.yaml"])
def test_what_a_jobset_starts_is_a_job_of_kubernetes(name):
    kubernetes = pytest.importorskip(
        "kubernetes_validate", reason="is in requirements-cluster.txt"
    )
    manifest = yaml.safe_load((EXAMPLES / name).read_text())
    (jobs,) = manifest["spec"]["replicatedJobs"]
    kind = {"apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": "x"}}
    job, latest = kind | jobs["template"], kubernetes.latest_version()
    assert kubernetes.validate(job, latest, strict=True)
    # Negative control.
    job["spec"]["complete"] = 4
    with pytest.raises(kubernetes.ValidationError):
        kubernetes.validate(job, latest, strict=True)


def run_script(folder, status, state="RUNNING", restarts=""):
    """Runs the script with SLURM's programs replaced; their calls and its status."""
    for name, body in STUBS.items():
        (folder / name).write_text(f"#!/bin/bash\n{body}\n")
        (folder / name).chmod(0o755)
    log = folder / "log"
    log.write_text("")
    given = ["msrvtt_9k", "/shared/a clip", "/shared/data", "/shared/run"]
    environment = {"PATH": f"{folder}:/usr/bin:/bin", "LOG": str(log)}
    environment |= {"STATUS": str(status), "STATE": state, "SLURM_JOB_ID": JOB}
    if restarts:
        environment["SLURM_RESTART_COUNT"] = restarts
    done = subprocess.run(
        [SCRIPT, *given], env=environment, capture_output=True, text=True, check=False
    )
    assert not done.stderr
    return log.read_text().splitlines(), done.returncode


def test_the_script_starts_a_task_for_each_gpu(tmp_path, monkeypatch):
    assert os.access(SCRIPT, os.X_OK)
    wanted = dict(
        line.removeprefix("#SBATCH --").split("=")
        for line in SCRIPT.read_text().splitlines()
        if line.startswith("#SBATCH") and "=" in line
    )
    # JAX gives task i of a node the GPU i of those that it sees.
    assert wanted["gpus-per-node"] == wanted["ntasks-per-node"]
    (call,), status = run_script(tmp_path, 0)
    assert status == 0
    _, *options, program, _, module, config, data, workdir = call.split("\t")[:-1]
    assert options == ["--gpu-bind=none", "--kill-on-bad-exit=0"]
    assert (program, module) == (".venv/bin/python", COMMANDS["train"])
    monkeypatch.chdir(EXAMPLES.parent)
    found, given = parse_with_config(module, [config, data, workdir])
    assert (found.dataset, found.backbone) == ("msrvtt_9k", "/shared/a clip")
    assert (found.data_dir, given["workdir"]) == ("/shared/data", "/shared/run")


@pytest.mark.parametrize(
    ("status", "state", "restarts", "again"),
    [
        (143, "RUNNING", "", True),
        (75, "RUNNING", "3", True),
        (75, "RUNNING", "20", False),
        (143, "COMPLETING", "", False),
        (2, "RUNNING", "", False),
        (1, "RUNNING", "", False),
        (0, "RUNNING", "", False),
    ],
)
def test_the_script_is_queued_again_where_the_run_resumes(
    status, state, restarts, again, tmp_path
):
    calls, ended = run_script(tmp_path, status, state, restarts)
    assert ended == status
    assert calls[1:] == ([f"scontrol requeue {JOB}"] if again else [])
