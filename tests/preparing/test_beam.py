"""Preparation on Beam's runners: the bytes of one machine, and lost workers."""

import hashlib
import importlib.util
import os
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
from films import film
from object_stores import S3, Google

from data_pipelines.console.errors import UserError
from data_pipelines.decoding.beam_jobs import run_on
from data_pipelines.dummy import write_dummy
from data_pipelines.files.stores import Store

ROOT = Path(__file__).parents[2]
FOLDER = "2x16/custom/1.0.0"
VIDEOS = 400
IN_PROCESSES = (
    *("--runner=DirectRunner", "--direct_num_workers=2"),
    "--direct_running_mode=multi_processing",
)
needs_beam = pytest.mark.skipif(
    importlib.util.find_spec("apache_beam") is None
    or importlib.util.find_spec("distributed") is None,
    reason="requirements-beam.txt is not installed",
)
pytestmark = [pytest.mark.slow, needs_beam]
_CLUSTER = """
import sys
from dask.distributed import LocalCluster
if __name__ == "__main__":
    with LocalCluster(
        n_workers=2, threads_per_worker=1, host="127.0.0.1", dashboard_address=None
    ) as cluster:
        print(cluster.scheduler_address, flush=True)
        sys.stdin.read()
"""


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """Small films in three splits, one of them damaged."""
    folder = tmp_path_factory.mktemp("source")
    rows = ["video,caption,split"]
    for place in range(VIDEOS):
        name = f"{place}.mp4"
        film(folder / "videos" / name, grey=place % 200)
        split = {0: "test", 1: "validation"}.get(place, "train")
        rows.append(f"{name},film {place},{split}")
    (folder / "videos/7.mp4").write_bytes(b"junk")
    (folder / "rows.csv").write_text("\n".join(rows))
    return folder


@pytest.fixture(scope="module")
def expected(source, tmp_path_factory):
    output = tmp_path_factory.mktemp("local")
    assert start(source, output).wait(300) == 0
    return content(output / FOLDER)


def start(source, output, *flags, environment=None):
    return subprocess.Popen(
        [
            *(sys.executable, "-m", "data_pipelines.prepare", "--dataset=custom"),
            *(f"--videos={source}/videos", f"--annotations={source}/rows.csv"),
            *(f"--output={output}", "--num_frames=2", "--image_size=16", *flags),
        ],
        cwd=ROOT,
        env=os.environ | (environment or {}),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )


def content(folder):
    return {
        path.name: hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.iterdir())
    }


@pytest.fixture(scope="module")
def s3():
    """A bucket that the workers of the cluster are told of."""
    server = S3()
    yield server
    server.close()


@pytest.fixture
def dask(tmp_path, s3):
    """The address of a cluster of two worker processes, and its process."""
    script = tmp_path / "cluster.py"
    script.write_text(_CLUSTER)
    path = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
    process = subprocess.Popen(
        [sys.executable, script],
        env=os.environ | s3.environment | {"PYTHONPATH": path},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    yield process.stdout.readline().strip(), psutil.Process(process.pid)
    # A cluster takes a minute to end by itself where its worker was killed.
    for one in [*psutil.Process(process.pid).children(recursive=True), process]:
        one.kill()
    process.communicate()


def parts(output):
    """How many parts are there."""
    work = output / "2x16/.custom.partial/parts"
    return sum(
        len(path.parent.name) == 2 and not path.name.startswith(".")
        for path in work.glob("*/*/*")
    )


def wait_for(holds, seconds=300):
    end = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < end
        time.sleep(0.05)


def workers_of(process, word):
    return [
        x for x in process.children(recursive=True) if word in " ".join(x.cmdline())
    ]


def test_dask_loses_a_worker(source, expected, tmp_path, dask):
    address, cluster = dask
    output = tmp_path / "out"
    flags = ("--runner=DaskRunner", f"--dask_client_address={address}")
    process = start(source, output, *flags)
    wait_for(lambda: parts(output) >= 3 or process.poll() is not None)
    workers_of(cluster, "spawn_main")[-1].send_signal(signal.SIGKILL)
    assert process.wait(400) == 0
    assert content(output / FOLDER) == expected


@pytest.mark.campaign
def test_beam_loses_a_process_and_the_next_run_resumes(source, expected, tmp_path):
    output = tmp_path / "out"
    process = start(source, output, *IN_PROCESSES)
    below = psutil.Process(process.pid)
    wait_for(lambda: parts(output) >= 3 or process.poll() is not None)
    workers_of(below, "sdk_worker_main")[-1].kill()
    # Without a watch it waits for ever.
    assert process.wait(100) == 2
    assert not (output / FOLDER).exists()
    work = output / "2x16/.custom.partial/parts"
    kept = {x: x.stat().st_mtime_ns for x in work.glob("*/??/*") if x.is_file()}
    assert len(kept) >= 3
    process = start(source, output, *IN_PROCESSES)
    # What is there is not written again: looked at until all of it is removed.
    while process.poll() is None:
        for path, when in kept.items():
            try:
                assert path.stat().st_mtime_ns == when
            except FileNotFoundError:
                continue
        time.sleep(0.2)
    assert process.returncode == 0
    assert content(output / FOLDER) == expected


@pytest.mark.campaign
def test_beam_in_several_processes_into_an_object_store(
    source, expected, s3, monkeypatch
):
    for name, value in s3.environment.items():
        monkeypatch.setenv(name, value)
    process = start(source, "s3://bucket/out", *IN_PROCESSES)
    assert process.wait(400) == 0
    store = Store(f"s3://bucket/out/{FOLDER}")
    found = {
        name: hashlib.sha256(store.read(name)).hexdigest() for name in store.files()
    }
    assert found == expected


# Minutes of what the others show one by one.
@pytest.mark.campaign
def test_the_lines_of_the_documentation(source, dask, s3, tmp_path):
    """Of its section on scale, as they are printed, on stand-ins for what they name."""
    page = (ROOT / "docs/data_sets.md").read_text()
    section = page.partition("## Preparing at scale")[2].partition("\n## ")[0]
    lines = [x for x in section.splitlines() if "data_pipelines.prepare " in x]
    assert len(lines) == 4
    write_dummy("msrvtt_9k", tmp_path / "msrvtt")
    google = Google()
    try:
        with pytest.MonkeyPatch.context() as patch:
            for name, value in (google.environment | s3.environment).items():
                patch.setenv(name, value)
            for place in ("gs://bucket", "s3://bucket"):
                put(source, place)
            put(tmp_path / "msrvtt/annotations", "s3://bucket/annotations")
            put(tmp_path / "msrvtt/videos", "s3://bucket/videos")
            for line in lines:
                line = line.replace("BUCKET", "bucket").replace("=8 ", "=2 ")
                line = line.replace("--output=", "--num_frames=2 --output=")
                line = line.replace("tcp://HOST:8786", dask[0])
                line = line.replace("=VIDEOS", f"={source}/videos")
                line = line.replace("=rows.csv", f"={source}/rows.csv")
                line = line.replace("=data", f"={tmp_path}/data")
                program, *arguments = shlex.split(line)
                assert program == ".venv/bin/python"
                done = subprocess.run(
                    [sys.executable, *arguments],
                    cwd=ROOT,
                    env=os.environ | google.environment | s3.environment,
                    capture_output=True,
                    text=True,
                    check=False,
                )
                assert done.returncode == 0, done.stderr
                assert "\nprepared " in done.stdout
    finally:
        google.close()


@pytest.mark.parametrize(
    ("runner", "says"),
    [
        ("DirectRuner", "is not one of .*, DirectRunner, .*did you mean DirectRunner?"),
        ("nowhere.Runner", "is not one of .*, nor a class of a runner"),
        ("os.getcwd", "is not one of .*, nor a class of a runner"),
    ],
)
def test_a_runner_that_is_none(runner, says):
    with pytest.raises(UserError, match=f"^--runner='{runner}' {says}"):
        run_on(runner, ())
    run_on("DaskRunner", ())
    run_on("directrunner", ())


def put(folder, place):
    store = Store(place)
    for path in folder.rglob("*"):
        if path.is_file():
            store.write(str(path.relative_to(folder)), path.read_bytes())
