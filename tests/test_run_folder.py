"""A run's files: whole or not at all, on this machine and behind a scheme."""

import errno
import json
import resource
import signal
from pathlib import Path

import pytest
from etils.epath import backend, gpath

from data_pipelines.errors import UserError
from vop_jax.run_folder import (
    MetricsWriter,
    RunFolder,
    as_path,
    is_full,
    read_metrics,
    write_atomically,
)


@pytest.fixture
def bucket(tmp_path, monkeypatch):
    """Stands in for a bucket: gs:// is a folder, seen through the path layer alone."""

    class Folder(backend._OsPathBackend):
        def __getattribute__(self, name):
            found = super().__getattribute__(name)
            if name.startswith("_") or not callable(found):
                return found

            def call(*given, **named):
                return found(
                    *(
                        x.replace("gs://", f"{tmp_path}/") if isinstance(x, str) else x
                        for x in given
                    ),
                    **named,
                )

            return call

    monkeypatch.setattr(gpath._GPath, "_backend", property(lambda self: Folder()))
    monkeypatch.setattr(gpath, "_get_backend", lambda *_: Folder())
    return tmp_path / "bucket"


class NoEvents:
    def __init__(self, folder):
        self.folder = folder

    def add_event(self, event):
        pass

    def close(self):
        pass


def test_a_bucket_is_a_folder_like_any_other(bucket, monkeypatch):
    monkeypatch.setattr(
        "tensorboard.summary.writer.event_file_writer.EventFileWriter", NoEvents
    )
    folder = RunFolder("gs://bucket/runs/a")
    assert str(folder.checkpoints) == "gs://bucket/runs/a/checkpoints"
    folder.check({"seed": 0})
    folder.start({"seed": 0})
    assert json.loads((bucket / "runs/a/config.json").read_text()) == {"seed": 0}
    with pytest.raises(UserError, match="seed is 0 there and 1 here"):
        RunFolder("gs://bucket/runs/a").check({"seed": 1})
    writer = MetricsWriter(folder)
    writer.write(3, loss=1.5)
    writer.close()
    first, second = read_metrics(folder)
    assert (first["step"], second) == (0, {"step": 3, "loss": 1.5})
    assert first["started"] == writer.started
    again = MetricsWriter(folder, 2)
    again.close()
    assert again.started == writer.started
    assert list(read_metrics(folder)) == [first]
    assert not [x.name for x in (bucket / "runs/a").iterdir() if "partial" in x.name]


def test_a_path_of_this_machine_is_made_absolute(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    assert Path(as_path("runs/a")) == tmp_path / "runs/a"
    assert str(as_path("gs://bucket/a")) == "gs://bucket/a"


def test_what_may_differ_is_named(tmp_path):
    folder = RunFolder(tmp_path)
    folder.start({"seed": 0, "mesh": {"fsdp": 1}})
    other = {"seed": 0, "mesh": {"fsdp": 4}}
    folder.check(other, free=("mesh.fsdp",))
    with pytest.raises(UserError, match=r"mesh\.fsdp is 1 there and 4 here"):
        folder.check(other)


@pytest.fixture
def quota():
    """No file may grow beyond a kilobyte, as on a disk without room."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1024, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, before)
    signal.signal(signal.SIGXFSZ, handler)


def test_what_does_not_fit_leaves_the_old_file(tmp_path, quota):
    file = tmp_path / "results.json"
    write_atomically(file, "old")
    with pytest.raises(OSError, match="File too large") as error:
        write_atomically(file, "n" * 4096)
    assert is_full(error.value)
    assert file.read_text() == "old"
    assert [x.name for x in tmp_path.iterdir()] == ["results.json"]


def chained():
    error = RuntimeError("the save failed")
    error.__cause__ = OSError(errno.ENOSPC, "No space left on device")
    return error


@pytest.mark.parametrize(
    ("error", "full"),
    [
        (OSError(errno.ENOSPC, "x"), True),
        (OSError(errno.EDQUOT, "x"), True),
        (chained(), True),
        (ValueError("RESOURCE_EXHAUSTED: write: No space left on device"), True),
        (RuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating 8 bytes"), False),
        (OSError(errno.EACCES, "x"), False),
        (ValueError("x"), False),
    ],
)
def test_what_a_full_disk_looks_like(error, full):
    assert is_full(error) is full
