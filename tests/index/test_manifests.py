"""The scripts that index on many machines say what the command understands."""

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from vop_jax import search
from vop_jax.index.shards import parse_shard

EXAMPLES = Path(__file__).parents[2] / "examples"


def flags_of(text):
    """Every call of the command in a text, as arguments."""
    text = re.sub(r"\\\n", " ", text)
    for line in text.splitlines():
        _, found, rest = line.partition("vop_jax.search ")
        if found and not line.startswith("#"):
            yield shlex.split(rest)


def test_the_slurm_script_is_valid_and_its_flags_are_known(monkeypatch):
    script = EXAMPLES / "index_slurm.sh"
    subprocess.run(["bash", "-n", script], check=True)
    calls = list(flags_of(script.read_text()))
    assert len(calls) == 2
    for call in calls:
        monkeypatch.setattr(sys, "argv", ["search", *call])
        flags = search._parse()
    assert calls[0][-1] == "--shard=auto"
    assert flags.shard is None


def test_the_manifest_gives_each_pod_its_shard(monkeypatch):
    yaml = pytest.importorskip("yaml")
    manifest = yaml.safe_load((EXAMPLES / "index_jobset.yaml").read_text())
    (jobs,) = manifest["spec"]["replicatedJobs"]
    job = jobs["template"]["spec"]
    (container,) = job["template"]["spec"]["containers"]
    assert job["completionMode"] == "Indexed"
    assert job["completions"] == job["parallelism"] == 16
    environment = {x["name"]: x["value"] for x in container["env"]}
    for index in (0, 15):
        given = environment | {"JOB_COMPLETION_INDEX": str(index)}
        assert parse_shard("auto", given) == (index + 1, 16)
    command, *call = container["args"]
    assert command == "search"
    monkeypatch.setattr(sys, "argv", ["search", *call])
    assert search._parse().shard == "auto"
    volumes = {x["name"] for x in job["template"]["spec"]["volumes"]}
    assert volumes == {x["name"] for x in container["volumeMounts"]}
