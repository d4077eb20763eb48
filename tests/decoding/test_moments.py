"""Moments against a plain decode of the whole file, cut by the rule as it is stated."""

import contextlib
import itertools

import av
import numpy as np
import odd_films
import pytest
from moment_rule import edges_by_definition, frames_and_times
from written_films import write

from data_pipelines.decoding import frame_reader, moments
from data_pipelines.decoding.frames import decode_uniform
from data_pipelines.decoding.images import resize_frame
from data_pipelines.decoding.moments import Moment, VideoEnd, decode_moments
from data_pipelines.decoding.packets import read_timeline
from data_pipelines.decoding.sampling import interval_edges, uniform_indices
from data_pipelines.decoding.windows import window_edges

SIZE = 24
OPEN = (
    "open-gop=1:keyint=12:min-keyint=12:scenecut=0:bframes=4:b-adapt=0:"
    "b-pyramid=normal:ref=4"
)


def read(path, count=4, seconds=1.0, **options):
    """All moments of a file, and its end."""
    *moments, end = decode_moments(path, count, seconds, SIZE, **options)
    assert isinstance(end, VideoEnd)
    assert end.moments == len(moments)
    return moments, end


def check(path, count=4, seconds=1.0, edges=None):
    """Compares the moments of a file; returns them and its end."""
    images, times = frames_and_times(path)
    edges = edges or edges_by_definition(times, seconds)
    moments, end = read(path, count, seconds)
    assert len(moments) == len(edges) - 1
    for moment, (a, b) in zip(moments, itertools.pairwise(edges), strict=True):
        wanted = [images[a + i] for i in uniform_indices(b - a, count)]
        wanted = [resize_frame(image, SIZE) for image in wanted]
        np.testing.assert_array_equal(moment.frames, wanted)
        assert moment.frames.dtype == np.uint8
        assert (moment.start, moment.end) == (float(times[a]), float(times[b]))
    assert (end.status, end.message, end.duration) == ("", "", float(times[-1]))
    assert (end.width, end.height) == (images[0].shape[1], images[0].shape[0])
    short = any(b - a < count for a, b in itertools.pairwise(edges))
    assert ("short" in end.notes) == short
    return moments, end


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("a.mp4", {"gop": 12}),
        ("a.mp4", {"gop": 250}),
        ("a.mp4", {"gop": 250, "bframes": 0}),
        ("a.mp4", {"gop": 40, "options": {"movflags": "frag_keyframe+empty_moov"}}),
        ("a.mkv", {"gop": 9}),
        ("a.avi", {"codec": "mpeg4"}),
        # Its frames have no times.
        ("a.avi", {"gop": 50}),
        ("a.mpg", {"codec": "mpeg2video"}),
        ("a.wmv", {"codec": "wmv2"}),
        ("a.ts", {"gop": 12}),
        ("a.mp4", {"codec": "libx265"}),
        ("a.webm", {"codec": "libvpx-vp9"}),
        ("a.webm", {"codec": "libvpx"}),
        ("a.mp4", {"codec": "libsvtav1", "size": (64, 64)}),
        ("a.gif", {"codec": "gif"}),
    ],
)
def test_moments_are_windows_of_a_full_decode(tmp_path, name, options):
    path = write(tmp_path / name, count=115, **options)
    # 4.6 seconds.
    assert window_edges_of(path) == interval_edges(115, 5)
    moments, end = check(path, edges=interval_edges(115, 5))
    assert len(moments) == 5
    assert moments[0].start == 0
    assert end.duration == pytest.approx(4.6, abs=0.02)


def window_edges_of(path, seconds=1.0):
    """As `decode_moments` cuts, where packets tell all; else the rule for even ones."""
    timeline = read_timeline(path)
    total = len(timeline.times)
    return interval_edges(total, 5) if timeline.doubtful else window_edges(timeline, 1)


@pytest.mark.parametrize("name", ["a.mkv", "a.ts"])
@pytest.mark.parametrize("count", [1, 7, 30])
def test_open_groups(tmp_path, name, count):
    path = tmp_path / name
    odd_films.write_with(path, lambda stream: None, OPEN, count=120)
    check(path, count)


@pytest.mark.parametrize("name", ["a.mp4", "a.mkv"])
@pytest.mark.parametrize(
    "gaps", [[40, 15, 90, 33], [20] * 50 + [300], [10] * 40 + [2500], [900, 1700]]
)
def test_variable_frame_rates_are_cut_by_time(tmp_path, name, gaps):
    path = write(tmp_path / name, count=90, gaps=gaps)
    moments, _ = check(path)
    # Where frames are dense a moment has more of them, not fewer seconds.
    lengths = [moment.end - moment.start for moment in moments]
    assert max(lengths) < 1.5 + max(gaps) / 1000
    if max(gaps) < 500:
        assert min(lengths) > 0.5


@pytest.mark.parametrize(
    ("frames", "moments"), [(1, 1), (2, 1), (37, 1), (38, 2), (62, 2), (63, 3)]
)
def test_how_many_moments(tmp_path, frames, moments):
    """Up to 1.5 seconds is one; from there on the nearest number."""
    path = write(tmp_path / "a.mp4", count=frames)
    assert len(check(path)[0]) == moments


@pytest.mark.parametrize("name", ["a.mp4", "a.avi", "a.gif", "a.ts"])
@pytest.mark.parametrize("count", [1, 5, 60])
def test_a_short_video_is_one_moment_of_its_uniform_frames(tmp_path, name, count):
    codec = "gif" if name == "a.gif" else "libx264"
    path = write(tmp_path / name, codec=codec, count=40)
    (moment,), end = read(path, count, 8.0)
    decoded = decode_uniform(path, count, image_size=SIZE)
    np.testing.assert_array_equal(moment.frames, decoded.frames)
    assert (moment.start, moment.end) == (0, end.duration)
    assert end.duration == pytest.approx(1.6, abs=0.05)
    assert end.notes == decoded.notes


@pytest.mark.parametrize("sure", [True, False])
def test_a_short_video_is_listed_by_its_header(tmp_path, monkeypatch, sure):
    """As by its packets; where the header is not sure of the end, by those."""
    path = write(tmp_path / "a.mp4", count=30, bframes=0)
    if not sure:
        content = bytearray(path.read_bytes())
        start = content.index(b"mdhd") + 4 + 16
        length = int.from_bytes(content[start : start + 4], "big")
        content[start : start + 4] = (length - 100).to_bytes(4, "big")
        path.write_bytes(content)
    walked = []

    def spy(path, **options):
        walked.append(path)
        return read_timeline(path, **options)

    monkeypatch.setattr(moments, "read_timeline", spy)
    found, end = check(path, seconds=8.0)
    assert walked == ([] if sure else [path])
    monkeypatch.setattr(moments, "read_index", lambda path: None)
    again, end_again = read(path, seconds=8.0)
    assert (found[0][:2], end) == (again[0][:2], end_again)


def test_a_turned_video_is_displayed(tmp_path):
    path = odd_films.turned(tmp_path / "a.mp4", 0, 1, -1, 0)
    (moment,), end = read(path, 4, 8.0)
    decoded = decode_uniform(path, 4, image_size=SIZE)
    np.testing.assert_array_equal(moment.frames, decoded.frames)
    assert (end.width, end.height, end.notes) == (48, 64, ("rotated",))
    path = odd_films.with_aspect(tmp_path / "b.mp4", 2, 1)
    assert read(path)[1][4:6] == (128, 48)
    assert read(path, ignore_pixel_aspect=True)[1][4:6] == (64, 48)


def readable(path):
    """The frames of a damaged file that a plain decoder gives before it fails."""
    frames = []
    with av.open(str(path)) as container:
        context = container.streams.video[0].codec_context
        context.options = {"err_detect": "explode"}
        container.streams.video[0].thread_type = "NONE"
        with contextlib.suppress(av.error.FFmpegError):
            frames.extend(
                resize_frame(x.to_ndarray(format="rgb24"), SIZE)
                for x in container.decode(video=0)
            )
    return frames


@pytest.mark.parametrize("name", ["a.mp4", "a.mkv", "a.flv", "a.gif", "a.avi"])
def test_a_truncated_file_gives_what_is_there(tmp_path, name):
    codec = "gif" if name == "a.gif" else "libx264"
    start = {"options": {"movflags": "faststart"}} if name == "a.mp4" else {}
    path = write(tmp_path / name, codec=codec, count=250, **start)
    whole, _ = read(path)
    assert len(whole) == 10
    content = path.read_bytes()
    path.write_bytes(content[: len(content) * 6 // 10])
    moments, end = read(path)
    assert (end.status, "cut off" in end.message) == ("truncated", True)
    assert 4 <= len(moments) < 8
    # The frames of each are those of the complete file at the same time.
    frames = readable(path)
    for moment in moments:
        for image in moment.frames:
            assert any(np.array_equal(image, frame) for frame in frames)
    assert moments[-1].end <= end.duration < 7.5
    path.write_bytes(content[: len(content) // 200])
    assert read(path)[1].status in ("truncated", "unreadable", "no_video")


def damaged(path, share=0.5, size=400):
    """Zeros in the middle of a file."""
    content = bytearray(path.read_bytes())
    start = int(share * len(content))
    content[start : start + size] = bytes(size)
    path.write_bytes(content)
    return path


@pytest.mark.parametrize("threads", [1, 3])
def test_damage_costs_the_moments_that_it_hits(tmp_path, threads):
    path = write(tmp_path / "a.mp4", count=250, gop=25)
    whole, _ = read(path, threads=3)
    moments, end = read(damaged(path), threads=threads)
    assert (end.status, "is damaged" in end.message) == ("corrupt", True)
    assert 7 <= len(moments) < 10
    starts = [moment.start for moment in whole]
    for moment in moments:
        wanted = whole[starts.index(moment.start)]
        np.testing.assert_array_equal(moment.frames, wanted.frames)
    # There are some from before and from after it.
    assert moments[0].start == 0
    assert moments[-1].start == starts[-1]


def test_a_file_with_too_much_damage_is_given_up(tmp_path, monkeypatch):
    path = write(tmp_path / "a.mp4", count=250, gop=25)
    for share in (0.3, 0.6):
        damaged(path, share)
    moments_of_all, _ = read(path)
    monkeypatch.setattr(moments, "_MOST_DAMAGED", 0)
    found, end = read(path)
    assert end.status == "corrupt"
    assert 0 < len(found) < len(moments_of_all)


def test_damage_where_only_a_full_decode_tells(tmp_path):
    path = write(tmp_path / "a.avi", count=250, gop=25)
    assert read_timeline(path).doubtful
    whole, _ = read(path)
    with av.open(str(path)) as container:
        packet = bytes([x for x in container.demux(video=0) if x.size][125])
    # All of a packet: where a decoder notices that a part is missing may vary.
    content = path.read_bytes()
    assert content.count(packet) == 1
    path.write_bytes(content.replace(packet, bytes(len(packet))))
    moments, end = read(path)
    assert (end.status, "is damaged" in end.message) == ("corrupt", True)
    assert len(moments) == 5
    frames = readable(path)
    assert len(frames) < 250
    for moment, complete in zip(moments, whole, strict=False):
        for image in moment.frames:
            assert any(np.array_equal(image, frame) for frame in frames)
        assert moment.start == pytest.approx(complete.start, abs=0.3)


def test_a_file_that_cannot_be_sought_is_read_through(tmp_path, monkeypatch):
    path = write(tmp_path / "a.mp4", count=150)
    whole, end = read(path)
    calls = []
    real = frame_reader.frames_at

    def fails(*arguments, seeking=True, **options):
        calls.append(seeking)
        frames = real(*arguments, seeking=seeking, **options)
        yield from itertools.islice(frames, 9 if seeking else None)
        if seeking:
            raise frame_reader.NotSeekableError

    monkeypatch.setattr("data_pipelines.decoding.moments.frames_at", fails)
    moments, again = read(path)
    assert (calls, again) == ([True, False], end)
    for moment, wanted in zip(moments, whole, strict=True):
        np.testing.assert_array_equal(moment.frames, wanted.frames)
        assert moment[:2] == wanted[:2]


def test_packets_without_a_frame_are_counted_anew(tmp_path, monkeypatch):
    """What the packets state is wrong from the first moment on."""
    path = write(tmp_path / "a.mp4", count=150)
    real = read_timeline

    def wrong(path, **options):
        timeline = real(path, **options)
        between = timeline.times[1] - timeline.times[0]
        times = [x + y for x in timeline.times for y in (0, between // 2)]
        return type(timeline)(**{**vars(timeline), "times": times})

    monkeypatch.setattr("data_pipelines.decoding.moments.read_timeline", wrong)
    check(path)


def test_a_decoder_skips_what_no_moment_needs(tmp_path, monkeypatch):
    """By seeking: of 20 groups each moment needs the beginning of one."""
    path = write(tmp_path / "a.mp4", count=500, gop=25, bframes=0)
    decoded = []
    real = frame_reader._decode_until

    class Counted:
        def __init__(self, container):
            self._container = container

        def demux(self, stream):
            for packet in self._container.demux(stream):
                decoded.append(packet.pts)
                yield packet

    def count(container, *rest):
        return real(Counted(container), *rest)

    monkeypatch.setattr(frame_reader, "_decode_until", count)
    moments, _ = read(path, 1, 5.0)
    assert len(moments) == 4
    # The middle of each is 12 frames behind a keyframe.
    assert len(decoded) < 80


@pytest.mark.parametrize("seconds", [0, -1.0, float("nan"), float("inf")])
def test_a_length_that_is_none(tmp_path, seconds):
    with pytest.raises(ValueError, match="not a positive number"):
        decode_moments(write(tmp_path / "a.mp4"), 4, seconds, SIZE)


def test_what_gives_no_moments_has_a_status(tmp_path):
    odd_films.check_no_moments(read, tmp_path)


def test_only_the_moment_at_hand_is_kept(tmp_path, monkeypatch):
    path = write(tmp_path / "a.mp4", count=500)
    held = []

    class Counted(frame_reader.KeptFrames):
        def keep(self, *rest):
            super().keep(*rest)
            held.append(len(self._waiting) + len(self._images))

    monkeypatch.setattr("data_pipelines.decoding.moments.KeptFrames", Counted)
    assert len(read(path, 6)[0]) == 20
    assert max(held) <= 7
    assert len(held) == 120
    moments = decode_moments(path, 6, 1.0, SIZE)
    assert isinstance(next(moments), Moment)
