"""A file is replaced in one move, or not at all."""

import os
import stat

import pytest

from data_pipelines.files.replacing import replacing


def test_a_file_is_replaced_when_the_block_succeeds(tmp_path):
    path = tmp_path / "new" / "file"
    for content in ("first", "second"):
        with replacing(path) as partial:
            partial.write_text(content)
            assert partial.parent == path.parent
            assert not path.exists() or path.read_text() == "first"
        assert path.read_text() == content
    assert list(path.parent.iterdir()) == [path]


@pytest.mark.parametrize("error", [OSError, KeyboardInterrupt, SystemExit])
@pytest.mark.parametrize("written", [False, True])
def test_a_failed_block_changes_nothing_and_leaves_nothing(tmp_path, error, written):
    path = tmp_path / "file"
    path.write_text("before")

    def fail():
        with replacing(path) as partial:
            if written:
                partial.write_text("half")
            raise error

    with pytest.raises(error):
        fail()
    assert path.read_text() == "before"
    assert list(tmp_path.iterdir()) == [path]


def test_two_writers_with_marks_of_their_own_do_not_meet(tmp_path):
    path = tmp_path / "file"
    with replacing(path, "1") as one, replacing(path, "2") as other:
        one.write_text("one")
        other.write_text("other")
    assert path.read_text() == "one"
    assert list(tmp_path.iterdir()) == [path]


def test_a_pipe_or_a_device_is_written_to_and_stays(tmp_path):
    path = tmp_path / "pipe"
    os.mkfifo(path)
    reader = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    try:
        with replacing(path) as partial:
            partial.write_text("through")
        assert os.read(reader, 100) == b"through"
    finally:
        os.close(reader)
    assert stat.S_ISFIFO(path.stat().st_mode)
    assert list(tmp_path.iterdir()) == [path]
