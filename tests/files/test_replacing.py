"""A file is replaced in one move, or not at all."""

import os
import stat
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from etils import epath

from data_pipelines.files import replacing as module
from data_pipelines.files.owners import process_mark
from data_pipelines.files.replacing import replacing_file


def test_a_file_is_replaced_when_the_block_succeeds(tmp_path):
    path = tmp_path / "new" / "file"
    for content in (b"first", b"second"):
        with replacing_file(path) as file:
            file.write(content)
            assert Path(file.name).parent == path.parent
            assert not path.exists() or path.read_bytes() == b"first"
        assert path.read_bytes() == content
    assert list(path.parent.iterdir()) == [path]


@pytest.mark.parametrize("error", [OSError, KeyboardInterrupt, SystemExit])
@pytest.mark.parametrize("written", [False, True])
def test_a_failed_block_changes_nothing_and_leaves_nothing(tmp_path, error, written):
    path = tmp_path / "file"
    path.write_text("before")

    def fail():
        with replacing_file(path) as file:
            if written:
                file.write(b"half")
                file.flush()
            raise error

    with pytest.raises(error):
        fail()
    assert path.read_text() == "before"
    assert list(tmp_path.iterdir()) == [path]


def test_paths_that_may_be_of_a_store_do_as_well(tmp_path):
    path = epath.Path(tmp_path) / "new" / "file"
    for content in (b"first", b"second"):
        with replacing_file(path) as file:
            file.write(content)
        assert path.read_bytes() == content
    assert list(path.parent.iterdir()) == [path]


def test_two_writers_of_one_file_do_not_meet(tmp_path):
    path = tmp_path / "file"
    with replacing_file(path) as one, replacing_file(path) as other:
        assert one.name != other.name
        one.write(b"1")
        other.write(b"2")
    assert path.read_bytes() == b"1"
    assert list(tmp_path.iterdir()) == [path]


def test_of_many_writers_each_succeeds_and_none_is_seen_half(tmp_path):
    path, wrong = tmp_path / "file", []

    def write(letter):
        try:
            for _ in range(50):
                with replacing_file(path) as file:
                    file.write(letter)
                    file.write(letter * 999)
                found = path.read_bytes()
                if len(set(found)) != 1 or len(found) != 1000:
                    wrong.append(found)
        except Exception as error:
            wrong.append(error)

    threads = [threading.Thread(target=write, args=(x,)) for x in (b"a", b"b", b"c")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong
    assert list(tmp_path.iterdir()) == [path]


def test_what_is_planted_in_the_place_of_a_partial_is_not_followed(
    tmp_path, monkeypatch
):
    """Not even where its random name is known."""
    precious, folder = tmp_path / "precious", tmp_path / "folder"
    precious.write_text("precious")
    path = folder / "file"
    with replacing_file(path) as file:
        file.write(b"first")
        partial = Path(file.name)
        token = partial.name.split(".")[-2]
    monkeypatch.setattr(module.secrets, "token_hex", lambda _: token)
    for name in (".file.partial", partial.name):
        (folder / name).symlink_to(precious)
    with pytest.raises(FileExistsError), replacing_file(path) as file:
        file.write(b"second")
    monkeypatch.undo()
    with replacing_file(path) as file:
        file.write(b"second")
    assert precious.read_text() == "precious"
    assert path.read_text() == "second"
    assert not path.is_symlink()


@pytest.fixture
def ended_process():
    """The mark of a process that has ended."""
    code = "from data_pipelines.files.owners import process_mark as x; print(x())"
    return subprocess.check_output([sys.executable, "-c", code], text=True).strip()


def test_what_a_killed_writer_left_is_removed_and_what_a_living_one_has_is_not(
    tmp_path, ended_process
):
    token, machine = "0" * 16, process_mark()[:8]
    other = f"{'00000000' if machine != '00000000' else 'ffffffff'}-1-5"
    names = {
        f".file.{ended_process}.{token}.partial": False,
        f".another.of it.{ended_process}.{token}.partial": False,
        f".file.{other}.{token}.partial": True,
        f".old.{other}.{token}.partial": False,
        f".file.{process_mark()}.{token}.partial": True,
        f".file.{ended_process}.partial": True,
        ".file.partial": True,
        "file.partial": True,
    }
    for name in names:
        (tmp_path / name).touch()
    long_ago = time.time() - 2 * 86_400
    for name in names:
        if not name.startswith(f".file.{other}"):
            os.utime(tmp_path / name, (long_ago, long_ago))
    precious = tmp_path / "precious"
    precious.write_text("precious")
    link = tmp_path / f".link.{ended_process}.{token}.partial"
    link.symlink_to(precious)
    with replacing_file(tmp_path / "file") as file:
        file.write(b"new")
    left = {x.name for x in tmp_path.iterdir()} - {"file", "precious"}
    assert left == {name for name, kept in names.items() if kept}
    assert precious.read_text() == "precious"


@pytest.mark.parametrize("name", ["x" * 255, "\N{SNOWMAN}" * 85, "new\nline"])
def test_any_name_that_a_file_can_have_can_be_replaced(tmp_path, name):
    with replacing_file(tmp_path / name) as file:
        file.write(b"new")
    assert [x.name for x in tmp_path.iterdir()] == [name]


def test_a_pipe_or_a_device_is_written_to_and_stays(tmp_path):
    path = tmp_path / "pipe"
    os.mkfifo(path)
    reader = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    try:
        for written in (b"through", b"this too"):
            with replacing_file(path) as file:
                file.write(written)
            assert os.read(reader, 100) == written
    finally:
        os.close(reader)
    assert stat.S_ISFIFO(path.stat().st_mode)
    assert list(tmp_path.iterdir()) == [path]
