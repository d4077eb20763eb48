"""Processes that are killed while they index, and many that index at once."""

import contextlib
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import object_stores
import pytest
from colour_model import ColourModel, write_colour

from data_pipelines.console.errors import UserError
from vop_jax.index.store import Store
from vop_jax.index.video_index import VideoIndex

ROOT = Path(__file__).parents[2]
RUN = """
import sys
from colour_model import ColourModel
from vop_jax import search
from vop_jax.index import update
update.BATCH, update.STORE_SECONDS = 2, 0.0
pause = float(sys.argv.pop(1))
search.load_model = lambda path, **_: ColourModel(pause=pause)
search.main()
"""


def start(videos, output, *flags, pause=0.0):
    flags = [f"--videos={videos}", f"--output={output}", "--checkpoint=x", *flags]
    return subprocess.Popen(
        [sys.executable, "-c", RUN, str(pause), "index", *flags],
        env=os.environ | {"PYTHONPATH": f"{ROOT}:{ROOT / 'tests' / 'helpers'}"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def finish(process):
    _, err = process.communicate(timeout=300)
    assert process.returncode == 0, err


def stored(output):
    """The videos that an index holds by now."""
    try:
        store = Store(output)
        return {row.path for row in store.videos()[0]}
    except UserError:
        return set()


def wait_for_rows(process, output, more_than=0):
    deadline = time.monotonic() + 60
    while not (output.exists() and len(stored(output)) > more_than):
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.02)


@pytest.mark.parametrize("kind", [signal.SIGKILL, signal.SIGINT])
def test_a_killed_process_keeps_what_is_done(folder, videos, kind):
    process = start(videos, folder.index, pause=50)
    wait_for_rows(process, folder.index)
    out, err = _signalled(process, kind)
    if kind == signal.SIGINT:
        assert process.returncode == 130, err
        assert err.splitlines()[-1] == "interrupted; what is done is kept"
        assert "Traceback" not in out + err
    done = folder.found()
    assert 0 < len(done) < 9
    model = ColourModel()
    summary = folder.update(model)
    assert (summary.indexed, summary.unchanged) == (9 - len(done), len(done))
    assert not set(model.read) & {Path(x).name for x in done}
    assert {x.name for x in videos.parent.iterdir()} == {"index", "videos"}


def _signalled(process, kind):
    """What a process says that is sent a signal, as often as it takes.

    Python drops an interrupt that meets the collection of an object; one asks again.
    """
    try:
        for _ in range(6):
            process.send_signal(kind)
            with contextlib.suppress(subprocess.TimeoutExpired):
                return process.communicate(timeout=10)
        raise AssertionError("the process does not end")
    finally:
        process.kill()


def many(videos, count):
    for i in range(count):
        write_colour(videos / f"{i % 5}" / f"{i}.mp4", (i % 256, 7 * i % 256, 90))


def answers(path):
    """Everything that an index answers, without ids and in any order of equals."""
    with VideoIndex.open(path) as index:
        found = index.search(ColourModel(), ["red", "green", "blue"], top=1000)
        assert found.refused == []
        rows = [
            sorted(
                (x.video, x.start, x.end, round(x.similarity, 5), sorted(x.copies))
                for x in answer.hits
            )
            for answer in found.answers
        ]
        return rows, found.videos, found.moments, index.background


@pytest.mark.slow
def test_twenty_kills_give_the_same_answers(tmp_path):
    videos = tmp_path / "videos"
    many(videos, 120)
    whole, output = tmp_path / "whole", tmp_path / "index"
    finish(start(videos, whole))
    rng = random.Random(0)
    kills = 0
    while kills < 20:
        process = start(videos, output, pause=0.05)
        # Python and its libraries start for a second.
        time.sleep(rng.uniform(0.8, 2.5))
        if process.poll() is None:
            kills += 1
        process.kill()
        process.communicate()
        if process.returncode == 0:
            # Finished: what is next killed has files to add and to remove.
            number = rng.randrange(10**6)
            write_colour(videos / f"new{number}.mp4", (number % 256, 99, 9))
            (videos / f"new{number}.mp4").unlink()
    finish(start(videos, output))
    assert answers(output) == answers(whole)


@pytest.mark.campaign
def test_of_four_writers_one_is_killed(tmp_path):
    videos, output = tmp_path / "videos", tmp_path / "index"
    many(videos, 120)
    # This one waits after its first rows, so that it is killed with the most to do.
    killed = start(videos, output, "--shard=3/4", pause=50)
    wait_for_rows(killed, output)
    own = len(stored(output))
    others = [start(videos, output, f"--shard={i}/4", pause=0.05) for i in (1, 2, 4)]
    wait_for_rows(others[0], output, more_than=own)
    killed.kill()
    killed.communicate()
    for process in others:
        finish(process)
    assert own < len(stored(output)) < 120
    # The job's next attempt of the killed one does the rest.
    finish(start(videos, output, "--shard=3/4"))
    whole = tmp_path / "whole"
    finish(start(videos, whole))
    assert answers(output) == answers(whole)
    store = Store(output)
    rows, _ = store.videos()
    paths = [row.path for row in rows]
    assert len(paths) == len(set(paths)) == 120


@pytest.fixture
def bucket(monkeypatch):
    """A bucket of a server on this machine that answers as S3 does."""
    pytest.importorskip("moto")
    server = object_stores.S3()
    try:
        # LanceDB's name of the endpoint is another one than the AWS tools'.
        endpoint = {"AWS_ENDPOINT": server.endpoint}
        for name, value in (object_stores.KEYS | endpoint).items():
            monkeypatch.setenv(name, value)
        yield f"{server.place}/videos.index"
    finally:
        server.close()


@pytest.mark.slow
def test_an_index_in_an_object_store(tmp_path, bucket):
    videos = tmp_path / "videos"
    many(videos, 40)
    processes = [start(videos, bucket, f"--shard={i}/3") for i in (1, 2, 3)]
    for process in processes:
        finish(process)
    whole = tmp_path / "whole"
    finish(start(videos, whole))
    assert answers(bucket) == answers(whole)
    (videos / "0" / "0.mp4").rename(videos / "moved.mp4")
    with VideoIndex.create(bucket) as index:
        summary = index.update(ColourModel(), videos, "x")
        assert (summary.kept, summary.removed, summary.unchanged) == (1, 0, 39)
    with VideoIndex.open(bucket) as index:
        assert index.path == bucket
        hit = index.search(ColourModel(), ["red"]).answers[0].hits[0]
        assert index.thumbnail(hit.moment)
    with (
        pytest.raises(UserError, match="is not an index of videos"),
        VideoIndex.open("s3://bucket/none"),
    ):
        pass
    for use in (VideoIndex.open, VideoIndex.create):
        with (
            pytest.raises(UserError, match="//wrong/index: there is no such bucket"),
            use("s3://wrong/index"),
        ):
            pass


@pytest.mark.slow
def test_an_object_store_that_does_not_answer_is_one_line(monkeypatch):
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "test")
    monkeypatch.setenv("AWS_REGION", "us-east-1")
    monkeypatch.setenv("AWS_ENDPOINT", "http://127.0.0.1:9")
    began = time.monotonic()
    with (
        pytest.raises(
            UserError, match="s3://bucket/index: its server does not answer"
        ) as caught,
        VideoIndex.open("s3://bucket/index"),
    ):
        pass
    assert time.monotonic() - began < 90
    assert "\n" not in str(caught.value)
