"""Moments at the cuts of films whose cuts are known, against a full decode."""

import contextlib
import itertools
import sys

import av
import numpy as np
import odd_films
import pytest
from moment_rule import edges_of_shots, frames_and_times
from written_films import write_frames, write_shots

from data_pipelines.console.errors import UserError
from data_pipelines.decoding import cuts, moments, shot_pass, shots
from data_pipelines.decoding.frame_reader import KeptFrames
from data_pipelines.decoding.images import resize_frame
from data_pipelines.decoding.moments import VideoEnd, decode_moments
from data_pipelines.decoding.sampling import uniform_indices
from data_pipelines.decoding.video_job import MomentsJob
from data_pipelines.decoding.workers import Workers

SIZE = 24
LENGTHS = [40, 6, 60, 168, 30]
CUTS = [40, 46, 106, 274]


def read(path, count=4, seconds=2.0, **options):
    *found, end = decode_moments(path, count, seconds, SIZE, cut="shots", **options)
    assert isinstance(end, VideoEnd)
    assert end.moments == len(found)
    return found, end


def check(path, begins, seconds=2.0, count=4):
    """Compares the moments of a film whose shots begin at these frames."""
    images, times = frames_and_times(path)
    edges = edges_of_shots(times, begins, seconds)
    found, end = read(path, count, seconds)
    assert [(x.start, x.end) for x in found] == [
        (float(times[a]), float(times[b])) for a, b in itertools.pairwise(edges)
    ]
    for moment, (a, b) in zip(found, itertools.pairwise(edges), strict=True):
        wanted = [images[a + i] for i in uniform_indices(b - a, count)]
        wanted = [resize_frame(image, SIZE) for image in wanted]
        np.testing.assert_array_equal(moment.frames, wanted)
    assert (end.status, end.message, end.duration) == ("", "", float(times[-1]))
    return edges


@pytest.mark.parametrize(
    ("name", "codec", "options"),
    [
        ("a.mp4", "libx264", {"gop": 250}),
        ("a.mkv", "libx264", {"gop": 12, "bframes": 0}),
        ("a.avi", "mpeg4", {}),
        ("a.ts", "libx264", {}),
        ("a.webm", "libvpx-vp9", {}),
        # Only decoding all of it tells which frames it has.
        ("a.gif", "gif", {}),
    ],
)
def test_shots_begin_where_the_film_is_cut(tmp_path, name, codec, options):
    path = write_shots(tmp_path / name, LENGTHS, codec, **options)
    edges = check(path, CUTS)
    # The short shot begins the next; the long one is three windows.
    assert {0, 40, 106, 274, 304} <= {*edges}
    assert len(edges) == 7


@pytest.mark.parametrize("gaps", [[40, 15, 90, 33], [20] * 50 + [300], [10, 200]])
def test_variable_frame_rates_are_cut_by_time(tmp_path, gaps):
    path = write_shots(tmp_path / "a.mp4", [50, 90, 40], gaps=gaps)
    check(path, [50, 140])


def test_without_cuts_shots_are_windows(tmp_path):
    """A picture that moves, a fade, and one frame."""
    moving = write_shots(tmp_path / "a.mp4", [200])
    light = np.linspace(20, 230, 200).astype(np.uint8)
    faded = [np.full((48, 64, 3), value) for value in light]
    fade = write_frames(tmp_path / "b.mp4", faded)
    still = write_shots(tmp_path / "c.mp4", [1])
    for path, count in ((moving, 4), (fade, 4), (still, 1)):
        found, end = read(path)
        *windows, end_of_windows = decode_moments(path, 4, 2.0, SIZE)
        assert (len(found), end) == (count, end_of_windows)
        for moment, window in zip(found, windows, strict=True):
            assert moment[:2] == window[:2]
            np.testing.assert_array_equal(moment.frames, window.frames)


def test_a_turned_film_and_odd_sizes(tmp_path):
    path = write_shots(tmp_path / "a.mp4", [40, 40], size=(46, 700))
    check(path, [40])
    odd_films.turned(tmp_path / "b.mp4", 0, 1, -1, 0)
    assert len(read(tmp_path / "b.mp4")[0]) == 1


def test_a_truncated_film_gives_the_shots_that_are_there(tmp_path):
    start = {"movflags": "faststart"}
    path = write_shots(tmp_path / "a.mp4", [60] * 5, options=start, gop=20)
    whole, _ = read(path, seconds=8.0)
    assert [x.start for x in whole] == [0, 2.4, 4.8, 7.2, 9.6]
    content = path.read_bytes()
    path.write_bytes(content[: len(content) * 6 // 10])
    found, end = read(path, seconds=8.0)
    assert (end.status, "cut off" in end.message) == ("truncated", True)
    assert found[0][:2] == whole[0][:2]
    assert 1 < len(found) < 5
    assert found[-1].end == end.duration < 9
    path.write_bytes(content[:200])
    assert read(path)[1].status in ("truncated", "unreadable", "no_video")


def damaged(path, *places, behind=0.0):
    """A film some of whose packets, by their order in the file, end in zeros."""
    with av.open(str(path)) as container:
        packets = [(x.pos, x.size) for x in container.demux(video=0) if x.size]
    content = bytearray(path.read_bytes())
    for position, size in (packets[place] for place in places):
        begin = position + int(behind * size)
        content[begin : position + size] = bytes(position + size - begin)
    path.write_bytes(content)
    return path


@pytest.mark.parametrize("places", [(60,), (50,), (60, 130), (75, 100, 125), (212,)])
def test_damage_costs_the_moments_that_it_hits(tmp_path, places, monkeypatch):
    """Shots of 50 frames, and a keyframe in 25."""
    # More of them than one call asks for.
    monkeypatch.setattr(shot_pass, "_AT_ONCE", 60)
    path = write_shots(tmp_path / "a.mp4", [50] * 6, gop=25, bframes=0)
    whole, _ = read(path)
    assert len(whole) == 6
    found, end = read(damaged(path, *places))
    assert (end.status, "is damaged" in end.message) == ("corrupt", True)
    by_start = {moment.start: moment for moment in found}
    hit = {place // 50 for place in places}
    for moment in (x for i, x in enumerate(whole) if i not in hit):
        same = by_start[moment.start]
        assert same.end == moment.end
        np.testing.assert_array_equal(same.frames, moment.frames)
    # Of a shot that is damaged in its first half alone, the other is a moment.
    if len(places) == 1:
        assert places[0] // 25 + 1 in by_start


def test_damaged_keyframes_are_passed_by(tmp_path, monkeypatch):
    """Each is tried once, and none of them again."""
    path = write_shots(tmp_path / "a.mp4", [50] * 6, gop=25, bframes=0)
    whole, _ = read(path)
    calls = []
    real = shot_pass.frames_at

    def spy(path, timeline, wanted, *rest, **named):
        calls.append(wanted[0])
        return real(path, timeline, wanted, *rest, **named)

    monkeypatch.setattr(shot_pass, "frames_at", spy)
    found, end = read(damaged(path, 75, 100, 125, behind=0.4))
    assert end.status == "corrupt"
    assert calls == [75, 100, 125, 150]
    by_start = {moment.start: moment for moment in found}
    for moment in (whole[0], *whole[3:]):
        same = by_start[moment.start]
        assert same.end == moment.end
        np.testing.assert_array_equal(same.frames, moment.frames)


def test_a_film_that_is_damaged_all_along_is_given_up(tmp_path, monkeypatch):
    path = write_shots(tmp_path / "a.mp4", [50] * 6, gop=25, bframes=0)
    damaged(path, *range(60, 300, 25))
    calls = []
    real = shot_pass.frames_at

    def spy(*given, **named):
        calls.append(given)
        return real(*given, **named)

    monkeypatch.setattr(shot_pass, "frames_at", spy)
    monkeypatch.setattr(shot_pass, "_MOST_DAMAGED", 3)
    found, end = read(path)
    assert len(calls) == 3
    assert (end.status, found[0].start) == ("corrupt", 0)


def test_damage_where_only_a_full_decode_tells(tmp_path):
    """What is behind it cannot be read, neither for shots nor for windows."""
    path = damaged(write_shots(tmp_path / "a.avi", [50] * 6, gop=25), 160)
    found, end = read(path)
    assert (end.status, "is damaged" in end.message) == ("corrupt", True)
    assert [x[:2] for x in found[:2]] == [(0, 2), (2, 4)]


def test_what_gives_no_moments_has_a_status(tmp_path):
    odd_films.check_no_moments(read, tmp_path)


def test_looking_for_shots_keeps_no_frame_and_reports(tmp_path, monkeypatch):
    path = write_shots(tmp_path / "a.mp4", [300] * 3)
    held, reports, kept = [], [], []
    add = shots.ShotDetector.add

    class Counted(KeptFrames):
        def __init__(self, *rest):
            super().__init__(*rest)
            kept.append(self)

        def keep(self, *rest):
            super().keep(*rest)
            held.append(len(self._waiting) + len(self._images))

    def spy(self, number, frame):
        add(self, number, frame)
        # The first pass, in which nothing is kept.
        assert not kept[0]._waiting
        assert not kept[0]._images

    monkeypatch.setattr(moments, "KeptFrames", Counted)
    monkeypatch.setattr(shots.ShotDetector, "add", spy)
    found, _ = read(path, 6, 8.0, progress=lambda: reports.append(1))
    assert len(found) == 3
    assert max(held) <= 7
    assert len(reports) >= 900 // 256


def test_processes_find_the_same_shots(tmp_path):
    paths = [
        write_shots(tmp_path / "a.mp4", LENGTHS),
        write_shots(tmp_path / "b.mkv", [40, 40]),
    ]
    jobs = [MomentsJob(str(path), 4, SIZE, 2.0, "shots") for path in paths]
    with contextlib.closing(Workers(2)) as workers:
        found = list(workers.decode_moments(jobs, 8))
    for place, path in enumerate(paths):
        answers = [answer for at, _, answer in found if at == place]
        *wanted, end = decode_moments(path, 4, 2.0, SIZE, cut="shots")
        assert answers[-1] == end
        assert [x[:2] for x in answers[:-1]] == [x[:2] for x in wanted]
        for moment, other in zip(answers, wanted, strict=False):
            np.testing.assert_array_equal(moment.frames, other.frames)


# A detector that takes as long as the file's name says.
CODE = """
import os, signal, time
from data_pipelines.decoding import shots, video_job
real, job = shots.ShotDetector.add, video_job.MomentsJob.answers
def answers(self, *rest):
    shots.kind = os.path.basename(self.video)
    return job(self, *rest)
def add(self, number, frame):
    if number == 30 and shots.kind == "hangs.mp4":
        time.sleep(600)
    if number == 30 and shots.kind == "crashes.mp4":
        os.kill(os.getpid(), signal.SIGSEGV)
    real(self, number, frame)
video_job.MomentsJob.answers, shots.ShotDetector.add = answers, add
video_job.serve()
"""


@pytest.mark.parametrize(
    ("name", "status", "message"),
    [
        ("hangs", "timeout", "took more than 6 seconds"),
        ("crashes", "corrupt", "crash twice (SIGSEGV)"),
    ],
)
def test_a_first_pass_that_does_not_end(tmp_path, name, status, message):
    good = write_shots(tmp_path / "good.mp4", [40, 40])
    bad = tmp_path / f"{name}.mp4"
    bad.write_bytes(good.read_bytes())
    jobs = [MomentsJob(str(path), 4, SIZE, 2.0, "shots") for path in (bad, good)]
    with contextlib.closing(Workers(2, 6.0, CODE)) as workers:
        ends = {
            place: answer
            for place, _, answer in workers.decode_moments(jobs, 8)
            if isinstance(answer, VideoEnd)
        }
    assert (ends[0].status, message in ends[0].message) == (status, True)
    assert (ends[1].status, ends[1].moments) == ("", 2)


def test_another_way_is_refused(tmp_path):
    with pytest.raises(UserError, match="--cut is scenes; pass one of windows, shots"):
        decode_moments(tmp_path / "a.mp4", 4, 2.0, SIZE, cut="scenes")
    jobs = [MomentsJob("a.mp4", 4, SIZE, 2.0, "scenes")]
    with contextlib.closing(Workers(1)) as workers, pytest.raises(UserError):
        list(workers.decode_moments(jobs, 1))


def test_without_the_extra_it_says_how_to_install_it(tmp_path, monkeypatch):
    ours = "data_pipelines.decoding.shots"
    for name in [x for x in sys.modules if f"{x}.".startswith("scenedetect.")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.delitem(sys.modules, ours, raising=False)
    monkeypatch.setitem(sys.modules, "scenedetect", None)
    says = r"needs PySceneDetect .* install 'scenedetect-head.*'$"
    with pytest.raises(UserError, match=says):
        cuts.check_cut("shots")
    with pytest.raises(UserError, match="needs PySceneDetect"):
        decode_moments(tmp_path / "a.mp4", 4, 2.0, SIZE, cut="shots")
    cuts.check_cut("windows")
