"""What the Python surface takes, and the one true line for what it does not."""

import contextlib
import os
import tracemalloc

import numpy as np
import pytest

import vop_jax
from data_pipelines.console.errors import UserError
from data_pipelines.datasets.demo.video_file import write_video
from data_pipelines.decoding.frames import STATUSES
from data_pipelines.decoding.workers import Workers, shared_workers
from vop_jax.api import load
from vop_jax.index.video_index import VideoIndex
from vop_jax.surface import video_reader
from vop_jax.weights.locate import BACKBONE

FRAMES = 2


@pytest.fixture(scope="module")
def model():
    return load("demo", num_frames=FRAMES)


@pytest.fixture(scope="module")
def paths(tmp_path_factory):
    folder = tmp_path_factory.mktemp("videos")
    rng = np.random.default_rng(0)
    for i in range(5):
        write_video(folder / f"{i}.mp4", rng.integers(0, 256, (8, 64, 80, 3), np.uint8))
    return sorted(folder.iterdir())


@pytest.fixture(scope="module")
def frames(model, paths):
    return np.stack([model.read_video(path) for path in paths])


@pytest.fixture(scope="module")
def features(model, frames):
    return model.encode_videos(frames)


class Column:
    """As a column of a table: it has an array, a length, and labels of its own."""

    def __init__(self, values):
        self.values = np.array([*values, None], object)[:-1]

    def __array__(self, dtype=None, copy=None):
        return self.values

    def __iter__(self):
        raise AssertionError("a column is read as an array")


class Place:
    def __init__(self, path):
        self.path = path

    def __fspath__(self):
        return str(self.path)


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


class Nowhere:
    def __fspath__(self):
        return 3


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


FIVE = np.zeros((2, FRAMES, 48, 48, 3), np.uint8)
VIDEO_MISTAKES = [
    (None, "not None"),
    (3, "not int"),
    (3.5, "not float"),
    (True, "not bool"),
    (object(), "not object"),
    (len, "not builtin_function_or_method"),
    (b"a.mp4", "not bytes"),
    (bytearray(b"a.mp4"), "not bytearray"),
    ({"a": "a.mp4"}, "not dict"),
    ({"a.mp4"}, "not set"),
    ("a.mp4", r"takes a list; pass \[path\]"),
    ("", "is an empty string"),
    (["a.mp4", ""], "is an empty string|does not exist"),
    ("https://example.org/a.mp4", "is a URL .*download it"),
    (["gs://bucket/a.mp4"], "video 0 is a URL .*download it"),
    ("/", "is a folder; pass a list of the files in it"),
    (["/"], "/ is a folder, not a video file"),
    (["/dev/null"], "is not a regular file"),
    (["a\0b.mp4"], "cannot be the name of a file"),
    (["\ud800.mp4"], "cannot be the name of a file"),
    (["x" * 5000], "does not exist .File name too long"),
    ([None], "video 0 is None, not a path"),
    ([b"a.mp4"], "video 0 is bytes, not a path"),
    ([7], "video 0 is int, not a path"),
    ([[7]], r"video 0 are int64 \[1\]; they must be uint8 \[frames, height"),
    ([["a.mp4"]], r"video 0 are <U5 \[1\]; they must be"),
    ([[[1], [1, 2]]], "video 0 has rows of different lengths"),
    (np.array(3, np.uint8), r"uint8 \[\]; they must be uint8 \[videos, frames"),
    (np.array("a.mp4"), r"pass one list of paths"),
    (np.array([["a.mp4"]], object), "pass one list of paths"),
    (np.array([b"a.mp4"]), "video 0 is bytes"),
    ([Nowhere()], "video 0 is Nowhere, whose __fspath__ gives no path"),
    (np.ma.masked_less(FIVE, 1), "has masked values"),
    ([np.ma.masked_less(FIVE[0], 1)], "video 0 has masked values"),
    (FIVE[0], r"pass frames\[None\] for one video"),
    (list(FIVE[0]), r"video 0 are uint8 \[48, 48, 3\]; they must be"),
    (FIVE.astype(np.float32), "float32 .*must be uint8"),
    (FIVE.astype(bool), "bool .*must be uint8"),
    (FIVE.transpose(0, 1, 4, 2, 3), r"\[2, 2, 3, 48, 48\]; they must be uint8"),
    (FIVE[:, :0], "which holds no pixel"),
    (FIVE[:, :, :0], "which holds no pixel"),
    ([FIVE[0, :0]], "which holds no pixel"),
    (FIVE[..., :0], "must be uint8"),
]


@pytest.mark.parametrize(
    ("videos", "says"), VIDEO_MISTAKES, ids=[x[1][:30] for x in VIDEO_MISTAKES]
)
def test_what_is_not_videos_is_one_line(model, videos, says):
    with pytest.raises(UserError, match=says) as caught:
        model.encode_videos(videos)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 6000


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"batch_size": 0}, "batch_size is 0; it is a whole number of at least 1"),
        ({"batch_size": -3}, "batch_size is -3"),
        ({"batch_size": 2.0}, "batch_size is float"),
        ({"batch_size": "8"}, "batch_size is str"),
        ({"batch_size": None}, "batch_size is None"),
        ({"batch_size": True}, "batch_size is bool"),
        ({"batch_size": [4]}, "batch_size is list"),
        ({"batch_size": 1 << 62}, "batch_size is out of range"),
        ({"batch_size": 10**30}, "batch_size is out of range"),
        ({"on_error": np.array(["skip", "raise"])}, "on_error is one of"),
        ({"on_error": "ignore"}, "on_error is one of 'raise', 'skip'"),
        ({"on_error": None}, "on_error is one of"),
        ({"on_error": ["skip"]}, "on_error is one of"),
    ],
)
def test_options_are_checked_before_anything_is_read(model, options, says):
    for videos in (["nowhere.mp4"], FIVE, []):
        with pytest.raises(UserError, match=says):
            model.encode_videos(videos, **options)


TEXT_MISTAKES = [
    (None, "not None"),
    (3, "not int"),
    (b"a", "not bytes"),
    ({"a": 1}, "not dict"),
    ({"a"}, "not set"),
    ("a", r"takes a list; pass \[text\]"),
    (["a", 3], "text 1 is int; texts are all strings, or all"),
    (["a", None], "text 1 is None"),
    ([[80, 81], "a"], "text 1 is str"),
    ([3, "a"], "text 0 is int"),
    ([None], "text 0 is None"),
    ([b"a"], "text 0 is bytes"),
    ([1.5], "text 0 is float"),
    ([float("nan"), "a"], "text 0 is float"),
    ([[1.0, 81.0]], r"text 0 is float64 \[2\]"),
    ([["a"]], r"text 0 is <U1 \[1\]"),
    ([[]], r"text 0 is float64 \[0\]"),
    ([[True, False]], "text 0 is bool"),
    ([[10**30, 81]], r"text 0 is object \[2\]"),
    ([[[80], [81]]], r"text 0 is int64 \[2, 1\]"),
    ([80, 1, 81], "text 0 is int"),
    (np.array([80, 81]), r"token ids are int64 \[2\]"),
    (np.zeros((2, 3)), r"token ids are float64 \[2, 3\]"),
    (np.zeros((2, 3), bool), "token ids are bool"),
    (np.array([["a"]]), "pass one list of strings"),
    (np.array("a"), "pass one list of strings"),
    (["a\ud800"], "text 0 is not valid Unicode"),
    ([[80, 1], [80, 81]], "must hold the EOT token"),
    ([[80, -1, 81]], "from 0 to 81"),
    (np.array([[80, 2**63 + 1, 81]], np.uint64), "from 0 to 81"),
    (np.zeros((3, 0), int), "must hold the EOT token"),
]


@pytest.mark.parametrize(
    ("texts", "says"), TEXT_MISTAKES, ids=[x[1][:30] for x in TEXT_MISTAKES]
)
def test_what_is_not_texts_is_one_line(model, texts, says):
    with pytest.raises(UserError, match=says) as caught:
        model.encode_texts(texts)
    assert "\n" not in str(caught.value)


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


@pytest.mark.parametrize(
    ("path", "options", "says"),
    [
        (None, {}, "the model is None"),
        ("", {}, "the model is an empty string"),
        (b"demo", {}, "the model is bytes"),
        (7, {}, "the model is int"),
        ({}, {}, "the model is dict"),
        (np.zeros(3), {}, r"the model is float64 \[3\]"),
        ("https://huggingface.co/openai/clip", {}, "is a URL .*; pass a folder, or"),
        ("gs://bucket/run", {}, "is a URL"),
        ("nowhere", {}, r"nowhere does not exist; pass the folder of .*\(owner/name\)"),
        ("a/b/c", {}, "a/b/c does not exist"),
        ("a\0b", {}, "does not exist"),
        ("~/nowhere/at/all", {}, "nowhere/at/all does not exist"),
        ("~nobody-of-that-name/x", {}, "does not exist"),
        ("x" * 5000, {}, "cannot be read .File name too long"),
        ("demo", {"tuned": "nowhere.safetensors"}, "nowhere.safetensors"),
        ("demo", {"tuned": ""}, "tuned is an empty string"),
        ("demo", {"tuned": 3}, "tuned is int"),
        ("demo", {"tuned": "/"}, "/ is not a file; pass a tuned"),
        ("demo", {"tuned": "s3://x/tuned.safetensors"}, "tuned is a URL"),
        ("demo", {"num_frames": 0}, "num_frames is 0; it is a whole number from 1"),
        ("demo", {"num_frames": -1}, "num_frames is -1"),
        ("demo", {"num_frames": 10**9}, "from 1 to 10,000"),
        ("demo", {"num_frames": 10**5000}, "num_frames is out of range"),
        ("demo", {"num_frames": True}, "num_frames is bool"),
        ("demo", {"num_frames": 8.0}, "num_frames is float"),
        ("demo", {"num_frames": "8"}, "num_frames is str"),
    ],
)
def test_what_is_not_a_model_is_one_line(path, options, says, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=says) as caught:
        vop_jax.load(path, **options)
    assert "\n" not in str(caught.value)


def test_a_folder_without_weights_says_so(tmp_path):
    (tmp_path / "config.json").write_bytes((BACKBONE / "config.json").read_bytes())
    with pytest.raises(UserError, match=r"model\.safetensors"):
        load(tmp_path)


def test_home_is_known_by_its_sign(tmp_path, monkeypatch, paths, model, features):
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "clip").symlink_to(BACKBONE)
    (tmp_path / "a.mp4").symlink_to(paths[0])
    assert load("~/clip").fingerprint == load(BACKBONE).fingerprint
    found = model.encode_videos(["~/a.mp4"])
    np.testing.assert_allclose(found, features[:1], atol=1e-5)


def test_one_video_s_mistakes(model, tmp_path):
    for path, says in ((None, "is None"), ("http://x.org/a", "is a URL"), (b"x", "by")):
        with pytest.raises(UserError, match=says):
            model.read_video(path)
    with pytest.raises(vop_jax.VideoError, match="is a folder") as caught:
        model.read_video(tmp_path)
    assert caught.value.status == "unreadable"


EYE = np.eye(3, dtype=np.float32)
METRIC_MISTAKES = [
    (None, None, "mean", "has shape"),
    ("eye", None, "mean", "has shape"),
    ({}, None, "mean", "has shape"),
    ((x for x in EYE), None, "mean", "has shape"),
    ([[1, 0], [1]], None, "mean", "has rows of different lengths"),
    (EYE[0], None, "mean", r"has shape \[3\]"),
    (EYE[:0], None, "mean", r"has shape \[0, 3\]"),
    (EYE[None], None, "mean", r"has shape \[1, 3, 3\]"),
    (EYE.astype(object), None, "mean", "holds object"),
    (EYE.astype("M8[s]"), None, "mean", "holds datetime64"),
    (EYE[:2], None, "mean", "pass the video of each text"),
    (EYE, [0, 1], "mean", r"for each of 3 texts.*it is int64 \[2\]"),
    (EYE, [[0], [1, 2]], "mean", "video_of_text has rows of different lengths"),
    (EYE, [0, 1, 3], "mean", "must hold"),
    (EYE, [0, 1, -1], "mean", "must hold"),
    (EYE, [0.0, 1.0, 2.0], "mean", "it is float64"),
    (EYE, [True, False, True], "mean", "it is bool"),
    (EYE, ["0", "1", "2"], "mean", "it is <U1"),
    (EYE, {0: 1}, "mean", "must hold"),
    (EYE, 1, "mean", "must hold"),
    (EYE, np.array([0, 1, 2**63], np.uint64), "mean", "must hold"),
    (EYE, None, None, "ties is None; it is one of mean"),
    (EYE, None, ["mean"], "ties is list"),
    (EYE, None, np.array(["mean", "mean"]), r"ties is <U4 \[2\]"),
    (EYE, None, "x" * 10**6, "ties is 'xxx"),
]


@pytest.mark.parametrize(
    ("similarity", "video_of_text", "ties", "says"),
    METRIC_MISTAKES,
    ids=[x[3][:30] for x in METRIC_MISTAKES],
)
def test_what_is_not_a_similarity_is_one_line(similarity, video_of_text, ties, says):
    with pytest.raises(UserError, match=says) as caught:
        vop_jax.retrieval_metrics(similarity, video_of_text, ties)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 300


def test_similarities_in_any_form():
    torch = pytest.importorskip("torch")
    want = vop_jax.retrieval_metrics(EYE)
    for form in (EYE.tolist(), torch.from_numpy(EYE), list(EYE)):
        assert vop_jax.retrieval_metrics(form) == want
        assert vop_jax.retrieval_metrics(form, torch.arange(3)) == want
        assert vop_jax.retrieval_metrics(form, range(3)) == want
    with pytest.raises(UserError, match=r"cannot be read as an array .*requires grad"):
        vop_jax.retrieval_metrics(torch.from_numpy(EYE).requires_grad_())


@pytest.mark.parametrize("shape", [(10_001, 8, 8, 3), (2, 10_000, 10_000, 3)])
def test_frames_beyond_a_file_s_limits_are_refused(model, shape):
    """A broadcast array states any size and takes none."""
    video = np.broadcast_to(np.uint8(0), shape)
    for videos in ([video], video[None]):
        with pytest.raises(UserError, match="a video has at most 10,000 frames"):
            model.encode_videos(videos)
