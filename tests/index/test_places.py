"""Where an index may be: other files refused, nothing made for nothing."""

import errno
import os
import signal
import socket
import sqlite3

import pytest

from data_pipelines.console.errors import UserError
from vop_jax.index.location import check_regular, place_of, storage_options
from vop_jax.index.video_index import VideoIndex


@pytest.mark.parametrize("kind", ["text", "database", "folder", "newer", "empty"])
def test_other_files_are_refused(folder, kind):
    output, says = folder.index, "is not an index of videos"
    if kind == "text":
        output.write_text("no index\n" * 100)
    elif kind == "folder":
        output.mkdir()
        (output / "photo.jpg").touch()
        says = "is a folder of other files"
    elif kind == "database":
        with sqlite3.connect(output) as other:
            other.execute("CREATE TABLE meta (name, value)")
        other.close()
        says = "is an index of an older vop_jax, which was one file; delete it"
    elif kind == "newer":
        with VideoIndex.create(output) as index:
            index._source.store.begin(3)
            index._source.store.record("identity", {"format": 3})
        says = "has format 3 of a newer vop_jax"
    else:
        output.mkdir()
    content = sorted(x.name for x in output.glob("*"))
    if kind != "empty":
        with pytest.raises(UserError, match=says):
            folder.update(rebuild=True)
    with pytest.raises(UserError, match=says):
        folder.search("red")
    assert sorted(x.name for x in output.glob("*")) == content


def test_an_index_that_is_not_there_is_not_made_by_a_search(folder):
    with pytest.raises(UserError, match="does not exist; python -m"):
        folder.search("red")
    assert not folder.index.exists()


def test_an_update_that_stores_nothing_leaves_no_folder(folder):
    with VideoIndex.create(folder.index) as index:
        assert index.is_empty
    assert not folder.index.exists()


def test_a_place_is_a_path_or_an_object_store(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert place_of("index") == tmp_path / "index"
    assert place_of("s3://bucket/a/index/") == "s3://bucket/a/index"
    with pytest.raises(UserError, match="is an address"):
        place_of("https://bucket/index")
    with pytest.raises(UserError, match="names no bucket"):
        place_of("gs:///index")
    monkeypatch.setenv("AWS_ENDPOINT", "http://127.0.0.1:5000")
    options = storage_options("s3://bucket/index")
    assert options["aws_endpoint"] == "http://127.0.0.1:5000"
    assert options["allow_http"] == "true"
    assert "aws_endpoint" not in storage_options("gs://bucket/index")


@pytest.mark.parametrize("below", ["file", "/proc"])
def test_a_place_that_cannot_be_is_not_called_damaged(folder, below):
    file = folder.videos.parent / "file"
    file.touch()
    folder.index = file.parent / below / "index"
    says = r"index cannot become a folder \(.*\); use another path$"
    with pytest.raises(UserError, match=says):
        folder.update()


@pytest.fixture
def soon():
    """Ends a test that waits; LanceDB's threads wait for no signal handler."""
    before = signal.signal(signal.SIGALRM, signal.SIG_DFL)
    signal.alarm(60)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


@pytest.mark.parametrize(
    "pattern",
    [
        "videos.lance/_versions/*.manifest",
        "moments.lance/data/*.lance",
        "moments.lance",
    ],
)
@pytest.mark.parametrize("kind", ["pipe", "link", "socket"])
def test_a_pipe_in_the_place_of_a_file_is_not_waited_for(folder, pattern, kind, soon):
    folder.update()
    (folder.index / "snapshot.bin").unlink()
    file = sorted(folder.index.glob(pattern))[-1]
    if file.is_dir():
        file = file / "data" / "a" / "b"
        file.parent.mkdir()
    file.unlink(missing_ok=True)
    if kind == "pipe":
        os.mkfifo(file)
    elif kind == "link":
        os.mkfifo(folder.videos / "pipe")
        file.symlink_to(folder.videos / "pipe")
    else:
        with socket.socket(socket.AF_UNIX) as other:
            # The path of a socket is short.
            below = os.open(file.parent, os.O_PATH)
            other.bind(f"/proc/self/fd/{below}/{file.name}")
            os.close(below)
    for attempt in (lambda: folder.search("red"), folder.update):
        with pytest.raises(UserError, match=f"{file.name} is not a regular file"):
            attempt()


def test_a_pipe_in_the_place_of_an_index_is_not_waited_for(folder, soon):
    os.mkfifo(folder.index)
    for attempt in (lambda: folder.search("red"), folder.update):
        with pytest.raises(UserError, match=r"cannot be read .*not a regular"):
            attempt()


def test_links_to_folders_are_followed_once(folder):
    folder.update()
    data = folder.index / "moments.lance" / "data"
    elsewhere = folder.videos.parent / "elsewhere"
    data.rename(elsewhere)
    data.symlink_to(elsewhere)
    (elsewhere / "back").symlink_to(folder.index / "moments.lance")
    (elsewhere / "nowhere").symlink_to("nothing")
    (folder.index / "snapshot.bin").unlink()
    assert folder.found() >= {"red0.mp4"}


def test_a_link_to_itself_hides_no_pipe_beside_it(tmp_path):
    folder = tmp_path / "meta.lance" / "_versions"
    folder.mkdir(parents=True)
    # The order of a listing is arbitrary; one of them all comes before the pipe.
    for i in range(100):
        (folder / f"{i}").symlink_to(f"{i}")
    check_regular(tmp_path, ["meta.lance", "videos.lance"])
    os.mkfifo(folder / "1.manifest")
    with pytest.raises(UserError, match=r"1\.manifest is not a regular file"):
        check_regular(tmp_path, ["meta.lance"])


def test_a_folder_that_cannot_be_listed_is_not_passed_over(tmp_path, monkeypatch):
    """What is in it might be opened by its name."""

    def closed(path):
        raise PermissionError(errno.EACCES, "Permission denied", str(path))

    monkeypatch.setattr(os, "scandir", closed)
    with pytest.raises(PermissionError):
        check_regular(tmp_path, ["meta.lance"])
