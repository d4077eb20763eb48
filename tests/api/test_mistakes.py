"""The one true line for what the Python surface does not take."""

import numpy as np
import pytest
from any_form import Nowhere

import vop_jax
from data_pipelines.console.errors import UserError
from vop_jax.api import load
from vop_jax.weights.locate import BACKBONE

FRAMES = 2


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
        ("owner/name", {}, "owner/name is not a folder, and owner/name cannot be f"),
        ("owner/name", {"revision": "a b"}, "revision is 'a b'; it is made of"),
        ("owner/name", {"subfolder": "../x"}, r"subfolder is '\.\./x'; it is made of"),
        ("demo", {"revision": "v1"}, "revision='v1' belongs to a model on the hub"),
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
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(UserError, match=says) as caught:
        vop_jax.load(path, **options)
    assert "\n" not in str(caught.value)


def test_a_folder_without_weights_says_so(tmp_path):
    (tmp_path / "config.json").write_bytes((BACKBONE / "config.json").read_bytes())
    with pytest.raises(UserError, match=r"model\.safetensors"):
        load(tmp_path)


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


@pytest.mark.parametrize("shape", [(10_001, 8, 8, 3), (2, 10_000, 10_000, 3)])
def test_frames_beyond_a_file_s_limits_are_refused(model, shape):
    """A broadcast array states any size and takes none."""
    video = np.broadcast_to(np.uint8(0), shape)
    for videos in ([video], video[None]):
        with pytest.raises(UserError, match="a video has at most 10,000 frames"):
            model.encode_videos(videos)
