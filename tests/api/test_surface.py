"""What the Python surface takes."""

import contextlib
import os
import tracemalloc

import numpy as np
import pytest
from any_form import Column, Place

import vop_jax
from data_pipelines.console.errors import UserError
from data_pipelines.decoding.frames import STATUSES
from data_pipelines.decoding.workers import Workers, shared_workers
from vop_jax.api import load
from vop_jax.index.video_index import VideoIndex
from vop_jax.surface import video_reader
from vop_jax.weights.locate import BACKBONE

FRAMES = 2


@pytest.mark.parametrize(
    "form",
    [
        list,
        tuple,
        lambda paths: (path for path in paths),
        lambda paths: map(str, paths),
        lambda paths: [Place(path) for path in paths],
        lambda paths: np.array([str(path) for path in paths]),
        lambda paths: np.array(paths, object),
        lambda paths: [np.str_(path) for path in paths],
        lambda paths: Column(paths),
        lambda paths: [os.fspath(paths[0]), *paths[1:]],
        lambda paths: dict(enumerate(paths)).values(),
    ],
)
def test_paths_in_any_form(model, paths, features, form):
    np.testing.assert_allclose(model.encode_videos(form(paths)), features, atol=1e-5)


def test_arrays_in_any_form(model, frames, features):
    torch = pytest.importorskip("torch")
    for form in (
        torch.from_numpy(frames),
        list(torch.from_numpy(frames)),
        (video for video in frames),
    ):
        np.testing.assert_allclose(model.encode_videos(form), features, atol=1e-5)


def test_paths_and_arrays_and_sizes_and_lengths_together(model, paths, frames):
    rng = np.random.default_rng(1)
    wide = rng.integers(0, 256, (FRAMES, 60, 90, 3), np.uint8)
    longer = rng.integers(0, 256, (5, 48, 48, 3), np.uint8)
    mixed = [paths[0], wide, longer, frames[1], paths[2], longer[:1]]
    found = model.encode_videos(mixed, batch_size=2)
    for row, video in zip(found, mixed, strict=True):
        one = [video] if isinstance(video, os.PathLike) else video[None]
        np.testing.assert_allclose(row, model.encode_videos(one)[0], atol=1e-5)


def test_order_is_kept_in_every_batch_size(model, paths, features):
    for size in (1, 2, np.int64(3), 100):
        found = model.encode_videos(list(reversed(paths)), size)
        np.testing.assert_allclose(found, features[::-1], atol=1e-5)


def test_nothing_gives_nothing(model):
    for nothing in ([], (), iter(()), np.zeros((0,), object), np.zeros((0,), str)):
        assert model.encode_videos(nothing).shape == (0, 64)
    for nothing in ([], iter(()), np.zeros((0,), str), np.zeros((0, 3), int)):
        assert model.encode_texts(nothing).shape == (0, 64)
    found = model.encode_videos([], on_error="skip")
    assert (found.features.shape, found.kept, found.failed) == ((0, 64), [], [])


def test_what_fails_is_left_out_and_reported(model, paths, features, tmp_path):
    text = tmp_path / "text.mp4"
    text.write_text("no video")
    cut = tmp_path / "cut.mp4"
    cut.write_bytes(paths[0].read_bytes()[:-400])
    videos = [
        *(text, paths[0], None, tmp_path / "none.mp4", paths[1], tmp_path, cut),
        *(b"a.mp4", np.zeros((2, 4), np.uint8), "https://x.org/a.mp4", 3.5, paths[2]),
    ]
    found = model.encode_videos(iter(videos), batch_size=2, on_error="skip")
    assert found.kept == [1, 4, 11]
    np.testing.assert_allclose(found.features, features[:3], atol=1e-5)
    assert [x.position for x in found.failed] == [0, 2, 3, 5, 6, 7, 8, 9, 10]
    statuses = {x.position: x.status for x in found.failed}
    assert statuses.pop(6) in STATUSES
    assert statuses == {
        **{0: "unreadable", 2: "invalid", 3: "missing", 5: "unreadable"},
        **{7: "invalid", 8: "invalid", 9: "invalid", 10: "invalid"},
    }
    assert all(x.message and "\n" not in x.message for x in found.failed)
    assert found.failed[0].video == str(text)
    assert "is a folder" in found.failed[3].message
    with pytest.raises(UserError, match=r"text\.mp4 is not a .*on_error='skip'"):
        model.encode_videos(videos)
    # All of it is well, and the answer has the same form.
    found = model.encode_videos(np.zeros((2, 2, 48, 48, 3), np.uint8), on_error="skip")
    assert (found.features.shape, found.kept, found.failed) == ((2, 64), [0, 1], [])


# A decoder that hangs on one file and dies of another.
DECODER = """
import os, time
from data_pipelines.decoding import video_job
def faulty(real):
    def decode(path, *given, **options):
        name = os.path.basename(path)
        if name == "1.mp4":
            time.sleep(600)
        if name == "3.mp4":
            os.kill(os.getpid(), 11)
        return real(path, *given, **options)
    return decode
video_job.decode_uniform = faulty(video_job.decode_uniform)
video_job.decode_moments = faulty(video_job.decode_moments)
video_job.serve()
"""


@pytest.fixture
def faulty(monkeypatch):
    with contextlib.closing(Workers(2, 2.0, DECODER)) as workers:
        monkeypatch.setattr(video_reader, "shared_workers", lambda: workers)
        yield workers


def test_a_decoder_that_hangs_or_dies_takes_only_its_file(
    model, paths, features, faulty
):
    found = model.encode_videos(paths, on_error="skip")
    assert found.kept == [0, 2, 4]
    np.testing.assert_allclose(found.features, features[[0, 2, 4]], atol=1e-5)
    assert [x[:3] for x in found.failed] == [
        (1, str(paths[1]), "timeout"),
        (3, str(paths[3]), "corrupt"),
    ]
    with pytest.raises(UserError, match="took more than 2 seconds"):
        model.encode_videos(paths)
    with pytest.raises(vop_jax.VideoError, match="crash twice"):
        model.read_video(paths[3])


def test_an_index_is_filled_by_the_same_processes(model, paths, faulty, tmp_path):
    with VideoIndex.create(tmp_path / "index") as index:
        summary = index.update(model, paths[0].parent)
        assert summary.indexed == 3
        statuses = {x.path: x.status for x in summary.unreadable}
        assert statuses == {"1.mp4": "timeout", "3.mp4": "corrupt"}


def test_a_generator_is_read_as_far_as_needed(model, paths):
    taken = []

    def endless():
        while True:
            taken.append(1)
            yield paths[0]
            if len(taken) == 200:
                raise RuntimeError("of the generator's own")

    with pytest.raises(RuntimeError, match="of the generator's own"):
        model.encode_videos(endless())
    taken.clear()
    reading = model.read_moments(endless(), 8.0, 3)
    next(reading)
    reading.close()
    assert len(taken) <= 3 + 2 * shared_workers().count


@pytest.mark.slow
def test_any_number_of_files_takes_the_same_memory(model, paths):
    def peak(count):
        tracemalloc.start()
        try:
            model.encode_videos((paths[i % 5] for i in range(count)), batch_size=8)
            return tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()

    peak(20)
    # 2,000 more videos have 27 MB of frames.
    assert peak(2020) - peak(20) < 4e6


@pytest.mark.parametrize(
    ("wanted", "says"),
    [
        (None, "not None"),
        ("a.mp4", r"takes a list; pass \[path\]"),
        (np.zeros((1, 2, 4, 4, 3), np.uint8), "pass a list of paths"),
        ([b"a.mp4"], "video is bytes"),
    ],
)
def test_read_moments_takes_a_list_of_paths(model, wanted, says):
    with pytest.raises(UserError, match=says):
        list(model.read_moments(wanted, 8.0, 2))


def test_a_short_file_is_one_moment_of_the_frames_of_the_file(model, paths):
    missing = paths[0].with_name("missing.mp4")
    answers = list(model.read_moments([paths[0], missing], 8.0, 2))
    found = {place: [x for at, x in answers if at == place] for place in (0, 1)}
    moment, end = found[0]
    np.testing.assert_array_equal(moment.frames, model.read_video(paths[0]))
    assert (moment.start, end.status, end.moments) == (0.0, "", 1)
    assert moment.end == pytest.approx(end.duration)
    (failed,) = found[1]
    assert (failed.status, failed.moments) == ("missing", 0)


def test_texts_in_any_form(model):
    texts = ["a red circle", "", "a blue square"]
    want = model.encode_texts(texts)
    ids = model.tokenizer(texts)
    ragged = [row[: list(row).index(81) + 1].tolist() for row in ids]
    assert len({len(row) for row in ragged}) > 1
    forms = [
        *(tuple(texts), iter(texts), np.array(texts), np.array(texts, object)),
        *(Column(texts), ids, ids.tolist(), list(ids), ragged, iter(ragged)),
        *(tuple(map(tuple, ragged)), ids.astype(np.uint16)),
    ]
    for form in forms:
        np.testing.assert_allclose(model.encode_texts(form), want, atol=1e-5)
    one = model.encode_texts(iter(ragged[:1]))
    np.testing.assert_allclose(one, want[:1], atol=1e-5)


def test_the_demo_is_loaded_by_name(tmp_path, monkeypatch):
    by_path = load(BACKBONE)
    monkeypatch.chdir(tmp_path)
    assert load("demo").fingerprint == by_path.fingerprint
    # A folder of that name that holds no model, such as one of videos.
    (tmp_path / "demo").mkdir()
    assert load("demo").fingerprint == by_path.fingerprint
    (tmp_path / "demo" / "config.json").write_text("{")
    with pytest.raises(UserError, match=r"demo/config\.json is not JSON"):
        load("demo")


def test_home_is_known_by_its_sign(tmp_path, monkeypatch, paths, model, features):
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "clip").symlink_to(BACKBONE)
    (tmp_path / "a.mp4").symlink_to(paths[0])
    assert load("~/clip").fingerprint == load(BACKBONE).fingerprint
    found = model.encode_videos(["~/a.mp4"])
    np.testing.assert_allclose(found, features[:1], atol=1e-5)


EYE = np.eye(3, dtype=np.float32)


def test_similarities_in_any_form():
    torch = pytest.importorskip("torch")
    want = vop_jax.retrieval_metrics(EYE)
    for form in (EYE.tolist(), torch.from_numpy(EYE), list(EYE)):
        assert vop_jax.retrieval_metrics(form) == want
        assert vop_jax.retrieval_metrics(form, torch.arange(3)) == want
        assert vop_jax.retrieval_metrics(form, range(3)) == want
    with pytest.raises(UserError, match=r"cannot be read as an array .*requires grad"):
        vop_jax.retrieval_metrics(torch.from_numpy(EYE).requires_grad_())
