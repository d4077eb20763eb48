"""Every word for a file, each with a file that gives it."""

import os
import socket
import sys

import odd_films
import pytest
from films import film
from written_films import write

from data_pipelines.decoding.frames import STATUSES, VideoError, decode_uniform, probe
from data_pipelines.decoding.video_job import DecodeJob, do_job
from data_pipelines.decoding.video_status import NOTES, OF_THE_MOMENT
from data_pipelines.decoding.workers import Workers


def text(path, content="no video at all\n" * 99):
    path.write_text(content)
    return path


def denied(path):
    film(path).chmod(0)
    return path


def broken_disk(path):
    """The system's own file that can be opened and not read."""
    path.symlink_to("/proc/self/mem")
    return path


def cut_film(path):
    write(path, options={"movflags": "faststart"})
    return odd_films.cut(path)


MAKERS = {
    "missing": lambda path: path,
    "denied": denied,
    "io_error": broken_disk,
    "unreadable": text,
    "truncated": cut_film,
    "corrupt": odd_films.hole,
    "no_video": lambda path: odd_films.sound(path, cover=True),
    "too_large": odd_films.gif,
    "timeout": lambda path: write(path, count=600, size=(240, 320)),
    "rotated": lambda path: odd_films.turned(path, -1, 0, 0, 1),
    "stretched": lambda path: odd_films.with_aspect(path, 4, 3),
    "resized": lambda path: odd_films.resized(path.with_suffix(".ts")),
    "hdr": odd_films.hdr,
    "short": lambda path: film(path, frames=2),
}


@pytest.fixture
def as_anybody():
    """The superuser may read everything."""
    if os.geteuid():
        yield
        return
    os.seteuid(65534)
    yield
    os.seteuid(0)


@pytest.mark.parametrize("status", STATUSES)
def test_every_status_has_a_file(tmp_path, status, request):
    if status == "io_error" and sys.platform != "linux":
        pytest.skip("needs /proc")
    path = MAKERS[status](tmp_path / "a.mp4")
    if status == "denied":
        request.getfixturevalue("as_anybody")
    count = 600 if status == "timeout" else 4
    job = DecodeJob(str(path), "", count, 16, 1 << 30)
    if status == "timeout":
        [(_, result)] = Workers(1, seconds=0.05).run([job])
    else:
        result = do_job(job)
    if status in NOTES:
        assert (result.status, result.notes) == ("", (status,))
    else:
        assert result.status == status
        assert str(path) in result.message
        assert "\n" not in result.message


def test_the_makers_are_of_the_list():
    assert set(MAKERS) == set(STATUSES)
    assert set(OF_THE_MOMENT) < set(STATUSES)


@pytest.mark.parametrize(
    "status", [x for x in STATUSES if x not in ("timeout", "corrupt", *NOTES)]
)
def test_a_look_and_a_preparation_agree(tmp_path, status, request):
    """What the header tells is said without decoding; damage within it cannot be."""
    path = MAKERS[status](tmp_path / "a.mp4")
    frames = tmp_path / "frames"
    if status == "denied":
        request.getfixturevalue("as_anybody")
    looked = do_job(DecodeJob(str(path), "", 0, 0, 1 << 30))
    decoded = do_job(DecodeJob(str(path), "", 4, 16, 1 << 30))
    prepared = do_job(DecodeJob(str(path), str(frames), 4, 16, 1 << 30))
    assert looked.status == decoded.status == prepared.status == status


def pipe(path):
    os.mkfifo(path)


def unix_socket(path):
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(path))


@pytest.mark.parametrize(
    "make",
    [
        pipe,
        unix_socket,
        lambda path: path.symlink_to("/dev/zero"),
        lambda path: path.symlink_to("/dev/stdin"),
        lambda path: path.mkdir(),
    ],
)
def test_only_regular_files_are_opened(tmp_path, monkeypatch, make):
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "a.mp4"
    make(path)
    for read in (lambda: decode_uniform(path, 4), lambda: probe(path)):
        with pytest.raises(VideoError) as error:
            read()
        assert error.value.status == "unreadable"


@pytest.mark.parametrize("name", ["a" * 5000 + ".mp4", "a\0b.mp4", "a.mp4/b.mp4"])
def test_a_name_that_leads_nowhere(tmp_path, name):
    film(tmp_path / "a.mp4")
    for path in (tmp_path / name, f"{tmp_path}/{name}"):
        with pytest.raises(VideoError) as error:
            decode_uniform(path, 4)
        assert error.value.status == "missing"


def test_a_link_to_itself(tmp_path):
    path = tmp_path / "a.mp4"
    path.symlink_to(path)
    with pytest.raises(VideoError) as error:
        decode_uniform(path, 4)
    assert error.value.status == "missing"


def test_a_disk_that_fails_in_the_middle_is_no_damage(tmp_path, monkeypatch):
    """FFmpeg takes the error for the end; the file is not to be blamed for it."""
    path = odd_films.hole(tmp_path / "a.mp4")

    def fail(path):
        raise VideoError("io_error", f"{path} cannot be read")

    monkeypatch.setattr("data_pipelines.decoding.frames.check_readable", fail)
    with pytest.raises(VideoError) as error:
        decode_uniform(path, 60)
    assert error.value.status == "io_error"
