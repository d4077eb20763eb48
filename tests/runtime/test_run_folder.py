"""A run's files: whole or not at all, on this machine and behind a scheme."""

import errno
import json
import os
import resource
import signal
from pathlib import Path

import pytest
from fake_bucket import bucket  # noqa: F401

from data_pipelines.console.errors import UserError
from vop_jax.runtime.files import as_path, is_full, write_atomically
from vop_jax.runtime.metrics_log import MetricsWriter, read_metrics
from vop_jax.runtime.run_folder import RunFolder


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


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("[" * 10**5, "nested too deeply"),
        ("{", "is not JSON"),
        ("[]", "it must be an object"),
        ('{"method": "vop", "method": "vop"}', "appears twice"),
        ('{"method": ["vop"]}', "method is .*; it must be a string"),
        ('{"method": "vop", "backbone": 3}', "backbone is 3; it must be a string"),
        ('{"method": "vop", "num_frames": 1000000000}', "num_frames is 1000000000"),
        ('{"method": "vop", "num_frames": "8"}', "num_frames is .8.; .* whole number"),
        (
            '{"method": "vop", "memory_gb": NaN}',
            "memory_gb is NaN; it must be",
        ),
        (
            '{"method": "vop", "memory_gb": "1"}',
            "memory_gb is .1.; .* a number",
        ),
        ('{"method": "vop", "train_on_holdout": "false"}', "it must be true or false"),
        ('{"method": "vop", "compute": {"dtype": "int4"}}', "compute.dtype is"),
        ('{"method": "vop", "compute": []}', "compute is .*; it must be an object"),
        ('{"method": "vop", "holdout": 0}', "holdout is 0; it must be at least 1"),
        ('{"method": "vop", "evaluation_batch_size": -1}', "must be at least 1"),
    ],
    ids=lambda x: x[:44],
)
def test_a_configuration_of_another_kind_is_one_line(tmp_path, text, says):
    folder = RunFolder(tmp_path)
    folder.config.write_text(text)
    with pytest.raises(UserError, match=says) as error:
        folder.is_run()
    assert "\n" not in str(error.value)
    assert len(str(error.value)) < 300
    folder.config.write_text('{"method": "vop", "memory_gb": Infinity}')
    assert folder.read_config()["memory_gb"] == float("inf")


@pytest.mark.parametrize(
    ("text", "says"),
    [("[" * 10**5, "nested"), ("{", "is not JSON"), ("[]", "must be an object")],
)
def test_results_of_another_kind_are_one_line(tmp_path, text, says):
    folder = RunFolder(tmp_path)
    assert folder.read_results() == {}
    folder.results.write_text(text)
    with pytest.raises(UserError, match=f"results.json.*{says}"):
        folder.read_results()
    folder.results.write_text('{"loss": NaN}')
    assert list(folder.read_results()) == ["loss"]


def test_metrics_that_are_cut_off_or_damaged(tmp_path):
    folder = RunFolder(tmp_path)
    good = '{"step": 1, "loss": 2.5, "other": null}\n'
    folder.metrics.write_text(good + '{"step": 2, "lo')
    assert list(read_metrics(folder)) == [json.loads(good)]
    for bad, says in (
        ("{", "line 2 is not JSON"),
        ("[]", "line 2 is .*; it must be an object"),
        ('{"step": "a"}', "line 2: step is .a.; it must be a whole number"),
        ('{"loss": 1}', "line 2 lacks the key 'step'"),
        ('{"step": 2, "loss": "x"}', "line 2: loss is .x."),
        ("[" * 10**5, "line 2 is nested too deeply"),
    ):
        folder.metrics.write_text(good + bad + "\n" + good)
        with pytest.raises(UserError, match=says) as error:
            list(read_metrics(folder))
        assert "\n" not in str(error.value)


def test_a_folder_that_is_not_utf_8_is_refused(tmp_path):
    with pytest.raises(UserError, match="is not UTF-8; use another --workdir"):
        RunFolder(tmp_path / os.fsdecode(b"\xff")).check_place()


def test_a_search_index_is_not_written_into(tmp_path):
    (tmp_path / "moments.lance").mkdir()
    for flag in ("--workdir", "--output"):
        with pytest.raises(UserError, match=f"a search index; use another {flag}"):
            RunFolder(tmp_path, flag).check_place()


def test_the_data_of_a_run_are_found_from_elsewhere(tmp_path, monkeypatch):
    made, elsewhere = tmp_path / "made", tmp_path / "elsewhere"
    for path in (made / "runs/a", made / "data/8x48/demo", elsewhere):
        path.mkdir(parents=True)
    folder = RunFolder(made / "runs/a")
    folder.config.write_text(json.dumps({"method": "vop", "data_dir": "data"}))
    monkeypatch.chdir(elsewhere)
    assert Path(folder.find_data("demo")) == made / "data"
    # What is here comes first, and another data set is not there.
    assert folder.find_data("custom") == "data"
    (elsewhere / "data/8x48/demo").mkdir(parents=True)
    assert folder.find_data("demo") == "data"
    assert RunFolder(tmp_path / "none").find_data("demo") == "data"
