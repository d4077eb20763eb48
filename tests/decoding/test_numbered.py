"""Frames by their numbers are those of decoding the entire file."""

import numpy as np
import pytest
from written_films import decode_all, write

from data_pipelines.decoding.numbered import NumberedFrames
from data_pipelines.decoding.video_status import VideoError

# Read by its header, by its packets, and only by decoding it.
KINDS = {"mp4": "libx264", "avi": "mpeg4", "ts": "libx264", "gif": "gif"}


@pytest.mark.parametrize("suffix", KINDS)
def test_frames_are_those_of_the_entire_file(suffix, tmp_path):
    path = write(tmp_path / f"film.{suffix}", codec=KINDS[suffix], count=30)
    film, every = NumberedFrames(path), decode_all(path)
    assert film.total == len(every) == 30
    for wanted in ([0, 29], [17, 3, 17, 11]):
        np.testing.assert_array_equal(film.take(wanted), [every[i] for i in wanted])
    # 30 frames at 25 a second; an MPEG stream does not begin at 0.
    assert film.seconds == pytest.approx(1.2, abs=0.1 if suffix == "ts" else 1e-6)


def test_frames_of_uneven_times_end_with_the_last(tmp_path):
    path = write(tmp_path / "film.mkv", count=10, gaps=[40, 400])
    assert NumberedFrames(path).seconds == pytest.approx(2.0, abs=0.21)


def test_frames_are_resized_as_they_are_decoded(tmp_path):
    path = write(tmp_path / "film.mp4", count=4)
    assert NumberedFrames(path, 16).take([2]).shape == (1, 16, 16, 3)


def test_a_file_that_is_cut_off_is_refused(tmp_path):
    path = write(tmp_path / "film.mp4")
    path.write_bytes(path.read_bytes()[:-2000])
    with pytest.raises(VideoError) as refused:
        NumberedFrames(path).take([39])
    assert refused.value.status in ("truncated", "corrupt", "unreadable")
