"""Preparation by parts: the same bytes, wherever parts are made and videos lie."""

import hashlib
import json
import time

import pytest
from films import custom_set
from object_stores import google, object_store  # noqa: F401
from preparations import InProcess, prepare_command

from data_pipelines.console.errors import UserError
from data_pipelines.files.stores import Store
from data_pipelines.preparing import at_scale, parts
from data_pipelines.preparing import prepare as module
from data_pipelines.preparing.prepare import report_lines

FOLDER = "2x16/custom/1.0.0"


@pytest.fixture(autouse=True)
def here(monkeypatch):
    """No processes; two videos to a part, so that there are several."""
    own = InProcess()
    monkeypatch.setattr(parts, "_pool", lambda *_: own)
    monkeypatch.setattr(module, "Workers", lambda *_: own)
    monkeypatch.setattr(at_scale, "PART_VIDEOS", 2)
    return own


@pytest.fixture
def source(tmp_path):
    source = custom_set(tmp_path, train=5)
    (source / "videos/train1.mp4").write_bytes(b"junk")
    (source / "videos/train3.mp4").unlink()
    return source


@pytest.fixture
def by_parts(monkeypatch):
    """A runner by the name of `Here`; what it ran, and a function to break it."""
    ran = []

    def run_on(runner, flags):
        def run(function, lines):
            for line in lines:
                ran.append(function.func.__name__)
                yield function(line)

        return run

    monkeypatch.setattr(module, "run_on", run_on)
    return ran


def prepare(source, output, **options):
    return module.prepare(
        "custom",
        output,
        **{
            "videos": source / "videos",
            "annotations": source / "rows.csv",
            "num_frames": 2,
            "image_size": 16,
            **options,
        },
    )


def content(place):
    store = Store(f"{place}/{FOLDER}")
    return {
        name: hashlib.sha256(store.read(name)).hexdigest() for name in store.files()
    }


def put(source, place):
    store = Store(place)
    for path in source.rglob("*"):
        if path.is_file() and "out" not in str(path.relative_to(source)):
            store.write(str(path.relative_to(source)), path.read_bytes())


def test_parts_make_the_bytes_and_the_report_of_one_machine(source, by_parts):
    prepare(source, source / "out1")
    path = prepare(source, source / "out2", runner="Here")
    assert content(source / "out2") == content(source / "out1")
    assert len(content(source / "out2")) == 7
    assert by_parts.count("make_part") == 4
    report = json.loads((path / "files.json").read_text())
    assert [x["status"] for x in report["train"]] == ["missing", "unreadable"]
    assert [x.name for x in (source / "out2").rglob(".*")] == []


def test_a_split_of_several_shards(source, by_parts, monkeypatch):
    from tensorflow_datasets.core.utils import shard_utils

    monkeypatch.setattr(
        shard_utils.ShardConfig,
        "calculate_number_shards",
        classmethod(lambda cls, total, count, precise=True: min(2, count)),
    )
    prepare(source, source / "out1")
    prepare(source, source / "out2", runner="Here")
    assert content(source / "out2") == content(source / "out1")
    assert by_parts.count("join_shard") == 6


def test_videos_and_shards_in_an_object_store(source, object_store):
    prepare(source, source / "out")
    put(source, f"{object_store.place}/in")
    there = {
        "videos": f"{object_store.place}/in/videos",
        "annotations": f"{object_store.place}/in/rows.csv",
    }
    output = f"{object_store.place}/out"
    path = prepare(source, output, **there)
    assert str(path) == f"{output}/{FOLDER}"
    local, remote = content(source / "out"), content(output)
    # It alone names the videos by where they are.
    assert local.pop("files.json") != remote.pop("files.json")
    assert remote == local
    messages = Store(path).read("files.json").decode()
    assert (
        messages.replace(object_store.place + "/in", str(source))
        == (source / "out" / FOLDER / "files.json").read_text()
    )
    assert report_lines(path)[0] == (
        "train: 3 videos, 6 captions, 2 left out, 1 missing, 1 unreadable"
    )
    # Nothing else is left, and nothing is done twice.
    assert {x.partition("/")[0] for x in Store(output).files("2x16")} == {"2x16"}
    assert not [x for x in Store(output).files() if "partial" in x]
    assert prepare(source, output, **there) == path


def test_a_run_that_breaks_resumes(source, google, monkeypatch, here):
    prepare(source, source / "out")
    output, calls = "gs://bucket/out", []
    for stops in (1, 3, 5):
        plain = at_scale.run_here

        def run(function, lines, stops=stops, plain=plain):
            for line in lines:
                calls.append(function.func.__name__)
                if len(calls) == stops:
                    raise UserError("lost")
                yield from plain(function, [line])

        monkeypatch.setattr(module, "run_here", run)
        calls.clear()
        with pytest.raises(UserError, match="lost"):
            prepare(source, output)
        # No reader takes it for a data set.
        assert "dataset_info.json" not in content(output)
        monkeypatch.setattr(module, "run_here", plain)
    here.done.clear()
    # A part that a dying machine cut off is made again.
    cut = next(x for x in google.objects if "/parts/" in x and "listed" not in x)
    google.objects[cut] = google.objects[cut][:-3]
    # So is one whose records are damaged, once they are read.
    for name in [x for x in google.objects if "/joined/" in x]:
        del google.objects[name]
    bad = [x for x in google.objects if "/parts/" in x and "listed" not in x][-1]
    assert bad != cut
    line, _, records = google.objects[bad].partition(b"\n")
    google.objects[bad] = line + b"\n" + bytes(len(records))
    with pytest.raises(UserError, match="is damaged; run the command again"):
        prepare(source, output)
    assert 1 <= len(here.done) <= 2
    here.done.clear()
    prepare(source, output)
    assert 1 <= len(here.done) <= 2
    assert content(output) == content(source / "out")


def test_shards_of_another_preparation_are_not_kept(source, google):
    """Captions of the same length make shards of the same size and other bytes."""
    prepare(source, source / "out")
    rows = (source / "rows.csv").read_bytes()
    output = "gs://bucket/out"

    def interrupted(text):
        (source / "rows.csv").write_bytes(text)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(at_scale, "_describe", stop)
            with pytest.raises(UserError, match="lost"):
                prepare(source, output)

    def stop(*_):
        raise UserError("lost")

    interrupted(rows)
    interrupted(rows.replace(b" said ", b" SAID "))
    (source / "rows.csv").write_bytes(rows)
    prepare(source, output)
    assert content(output) == content(source / "out")


def test_a_failure_of_the_moment_is_tried_again(source, by_parts, here):
    from data_pipelines.decoding.video_job import Result

    plain, output = here.decode, source / "out"
    here.decode = lambda *given, **named: (
        (place, job, Result("timeout", "slow") if "test0" in job.video else result, x)
        for place, job, result, x in plain(*given, **named)
    )
    with pytest.raises(UserError, match="test video test0: slow"):
        prepare(source, output, runner="Here")
    here.decode = plain
    here.done.clear()
    prepare(source, output, runner="Here")
    # The part of the test split again; that of the validation split is there.
    assert [x for x in here.done if x[0] in "tv"][:2] == ["test1.mp4", "test0.mp4"]
    assert not any(x.startswith("validation") for x in here.done)


def test_a_runner_that_does_nothing_is_noticed(source, monkeypatch):
    monkeypatch.setattr(module, "run_on", lambda *_: lambda function, lines: iter(()))
    with pytest.raises(UserError, match=r"the runner finished without .*/parts/"):
        prepare(source, source / "out", runner="Idle")


def test_a_runner_that_is_none_is_told_before_anything_is_written(source, monkeypatch):
    def unknown(*_):
        raise UserError("--runner='None' is not one")

    monkeypatch.setattr(module, "run_on", unknown)
    (source / "rows.csv").unlink()
    with pytest.raises(UserError, match="--runner='None' is not one"):
        prepare(source, source / "out", runner="None")
    assert not (source / "out").exists()


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"output": "gs://none/out"}, "gs://none/out.*: there is no such bucket"),
        ({"videos": "gs://none/in"}, "gs://none/in: there is no such bucket"),
        ({"videos": "gs://bucket/in"}, "gs://bucket/in holds no files; use another"),
        ({"annotations": "gs://bucket/a.csv"}, "gs://bucket/a.csv does not exist"),
        ({"annotations": "gs://bucket/a"}, "gs://bucket/a holds no file that ends in"),
        ({"output": "az://bucket/out"}, "--output=az://bucket/out is in a store that"),
        ({"videos": "az://bucket/in"}, "--videos=az://.* is not supported here; use g"),
        ({"annotations": "az://b/a"}, "--annotations=az://.*; use gs:// or s3://"),
        ({"output": "ftp://bucket/out"}, "this takes a path of this machine"),
    ],
)
def test_places_that_cannot_be(source, google, options, says):
    with pytest.raises(UserError, match=says):
        prepare(source, **{"output": "gs://bucket/out", **options})
    assert not google.objects or "videos" in options


def test_a_bucket_that_may_only_be_read(source, google, here):
    google.refused = {"POST", "PUT"}
    with pytest.raises(UserError, match=r"gs://bucket/out/.*: its server denies"):
        prepare(source, "gs://bucket/out")
    assert not here.done


@pytest.mark.slow
@pytest.mark.parametrize("scheme", ["gs", "s3"])
def test_stores_that_do_not_answer_are_one_line_soon(source, monkeypatch, scheme):
    """Of a port where nobody listens, and of Google's own, without credentials."""
    lines = {
        "AWS_ENDPOINT_URL": "http://127.0.0.1:9",
        "AWS_REGION": "us-east-1",
        "STORAGE_EMULATOR_HOST": "http://127.0.0.1:9",
    }
    for name, value in lines.items():
        monkeypatch.setenv(name, value)
    began = time.monotonic()
    done = prepare_command(
        *("--dataset=custom", f"--videos={source / 'videos'}"),
        *(f"--annotations={source / 'rows.csv'}", f"--output={scheme}://bucket/out"),
    )
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.count("\n") == 1
    assert "its server does not answer; check the network" in done.stderr
    assert time.monotonic() - began < 90
