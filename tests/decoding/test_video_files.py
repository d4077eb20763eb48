"""Videos found by their stem, whatever they end in and wherever they lie."""

import os
import unicodedata

import pytest
from object_stores import google  # noqa: F401

from data_pipelines.console.errors import UserError
from data_pipelines.decoding.video_files import VideoFiles


@pytest.fixture
def folder(tmp_path):
    for name in (
        "video7.mp4",
        "video7.json",
        "deep/er/video8.webm",
        "X.3gp.mp4",
        "Y.mov.mp4",
        "bare.",
        "none",
        "film/0001_A_00.00.51.926-00.00.54.129.avi",
        "twice.avi",
        "twice.mov.avi",
        ".hidden/video9.mp4",
        ".video10.mp4",
        unicodedata.normalize("NFD", "Käse.mp4"),
    ):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    (tmp_path / "deep/up").symlink_to(tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    ("stem", "name"),
    [
        ("video7", "video7.mp4"),
        ("video8", "deep/er/video8.webm"),
        ("X", "X.3gp.mp4"),
        ("Y", "Y.mov.mp4"),
        ("Y.mov", "Y.mov.mp4"),
        ("bare", "bare."),
        ("none", "none"),
        (
            "0001_A_00.00.51.926-00.00.54.129",
            "film/0001_A_00.00.51.926-00.00.54.129.avi",
        ),
        ("twice", "twice.avi"),
        ("Käse", unicodedata.normalize("NFD", "Käse.mp4")),
        ("video9", None),
        ("video10", None),
        ("0001_A_00", None),
        ("video", None),
    ],
)
def test_a_stem_finds_its_file(folder, stem, name):
    expected = None if name is None else folder / name
    assert VideoFiles(folder).find([stem]) == expected


def test_the_first_stem_that_is_there_counts(folder):
    files = VideoFiles(folder)
    assert files.find(["v_video7", "video7"]) == folder / "video7.mp4"
    assert files.find(["video8", "video7"]) == folder / "deep/er/video8.webm"


def test_a_path_is_no_stem(folder):
    files = VideoFiles(folder)
    assert files.at("deep/er/video8.webm") == folder / "deep/er/video8.webm"
    assert files.at("video8.webm") is None
    assert files.at("deep") is None


def test_a_folder_that_is_none(tmp_path):
    with pytest.raises(UserError, match="is not a folder; use another --videos"):
        VideoFiles(tmp_path / "nowhere")


def test_a_path_that_is_no_regular_file_is_there(folder):
    os.mkfifo(folder / "pipe.mp4")
    files = VideoFiles(folder)
    assert files.at("pipe.mp4") == files.find(["pipe"]) == folder / "pipe.mp4"
    for name in ("a" * 5000, "a\0b", ".", "/"):
        assert files.at(name) is None


def test_objects_whose_keys_are_not_paths_are_left_out_and_told(google, capsys):
    odd = ("a//c1.mp4", "./c2.mp4", "b/../c3.mp4", "/c4.mp4", f"{'n' * 256}.mp4")
    google.objects |= dict.fromkeys((f"v/{x}" for x in odd), b"12")
    # The mark of an empty folder is not a file.
    google.objects |= {"v/a/c1.mkv": b"123", "v/.c5.mp4": b"1", "v/sub/": b""}
    files = VideoFiles("gs://bucket/v")
    assert files.paths() == ["a/c1.mkv"]
    assert str(files.find(["c1"])) == "gs://bucket/v/a/c1.mkv"
    assert files.about(files.at("./a/c1.mkv"))[0] == 3
    assert files.at("a//c1.mp4") is files.at("../v/a/c1.mkv") is None
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert "5 objects of gs://bucket/v left out" in said
    assert "such as './c2.mp4'; rename" in said
