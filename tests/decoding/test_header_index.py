"""What the header of a video lists, against its packets."""

import contextlib

import av
import numpy as np
import odd_films
import pytest
from written_films import decode_all, write

from data_pipelines.decoding import frames, header_index
from data_pipelines.decoding.frames import VideoError, decode_uniform
from data_pipelines.decoding.header_index import read_index
from data_pipelines.decoding.packets import read_timeline
from data_pipelines.decoding.sampling import uniform_indices


def check(path, count=7):
    """The frames of a file are those of a full decode."""
    every = decode_all(path)
    wanted = [every[i] for i in uniform_indices(len(every), count)]
    decoded = decode_uniform(path, count)
    np.testing.assert_array_equal(decoded.frames, wanted)
    assert decoded.total_frames == len(every)


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("a.mp4", {"gop": 12}),
        ("a.mp4", {"gop": 250}),
        ("a.mov", {"gop": 7, "count": 3}),
        ("a.mp4", {"count": 1}),
        ("a.mp4", {"gaps": [40, 15, 90, 33]}),
        ("a.mp4", {"options": {"movflags": "faststart"}}),
    ],
)
def test_it_lists_the_frames_that_there_are(tmp_path, monkeypatch, name, options):
    path = write(tmp_path / name, bframes=0, **options)
    listed, walked = read_index(path), read_timeline(path)
    assert listed is not None
    assert (listed.times, listed.keyframes) == (walked.times, walked.keyframes)
    assert listed.tick == walked.tick
    if "gaps" not in options and "count" not in options:
        assert listed.step == walked.step
    assert (listed.doubtful, listed.ends_unknown) == (False, False)
    assert (walked.doubtful, walked.ends_unknown) == (False, False)

    def refuse(path):
        raise AssertionError("the packets are read")

    monkeypatch.setattr(frames, "read_timeline", refuse)
    check(path)


@pytest.mark.parametrize(
    ("name", "options"),
    [
        # Displayed in another order than decoded.
        ("a.mp4", {"bframes": 2}),
        ("a.mp4", {"bframes": 2, "options": {"movflags": "negative_cts_offsets"}}),
        # The rest of its frames is listed elsewhere.
        ("a.mp4", {"options": {"movflags": "frag_keyframe+empty_moov"}}),
        ("a.mp4", {"options": {"movflags": "frag_keyframe"}}),
        ("a.mp4", {"codec": "mpeg4"}),
        ("a.mp4", {"codec": "libvpx-vp9"}),
        ("a.mkv", {}),
        ("a.ts", {}),
        ("a.avi", {}),
    ],
)
def test_it_leaves_other_files_to_their_packets(tmp_path, name, options):
    path = write(tmp_path / name, **{"bframes": 0, **options})
    assert read_index(path) is None
    check(path)


def test_reordering_that_the_codec_does_not_state(tmp_path):
    """Times that are those of other frames would be taken for them."""
    path = write(tmp_path / "a.mp4", bframes=2)
    listed = path.read_bytes()
    assert listed.count(b"ctts") == 1
    # Without the box, decoding times alone.
    path.write_bytes(listed.replace(b"ctts", b"free").replace(b"elst", b"free"))
    assert read_index(path) is None
    (tmp_path / "none.mp4").write_bytes(b"")
    assert read_index(tmp_path / "none.mp4") is None


def test_times_of_display_that_do_not_reorder(tmp_path):
    source, path = write(tmp_path / "a.mp4", bframes=0), tmp_path / "b.mp4"
    with av.open(str(source)) as old, av.open(str(path), "w") as new:
        stream = new.add_stream_from_template(old.streams.video[0])
        for place, packet in enumerate(x for x in old.demux(video=0) if x.size):
            # The first as it was.
            packet.pts += packet.duration // 2 * (place % 2)
            packet.stream = stream
            new.mux(packet)
    times = read_timeline(path).times
    assert len(set(np.diff(times))) == 2
    assert read_index(path) is None
    check(path)


def test_a_header_that_is_wrong_is_not_believed(tmp_path):
    """Frames that are not where it says are looked for in the packets."""
    path = write(tmp_path / "a.mp4", bframes=0, count=40)
    real = read_index(path)
    shifted = real.__class__([x + 1 for x in real.times], real.keyframes, False, False)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(frames, "read_index", lambda path: shifted)
        check(path)


@pytest.mark.parametrize("count", [1, 4])
@pytest.mark.parametrize("flags", ["faststart", ""])
def test_a_truncated_file_is_left_to_its_packets(tmp_path, flags, count):
    options = {"movflags": flags} if flags else {}
    path = write(tmp_path / "a.mp4", bframes=0, count=100, options=options)
    odd_films.cut(path, len(path.read_bytes()) * 2 // 3)
    with pytest.raises(VideoError) as error:
        decode_uniform(path, count)
    assert error.value.status == ("truncated" if flags else "unreadable")


def test_damage_is_an_error(tmp_path):
    path = write(tmp_path / "a.mp4", bframes=0, count=60)
    content = bytearray(path.read_bytes())
    start = content.index(b"mdat") + 2000
    content[start : start + 1000] = bytes(1000)
    path.write_bytes(content)
    assert read_index(path) is not None
    with pytest.raises(VideoError) as error:
        decode_uniform(path, 60)
    assert error.value.status == "corrupt"


@pytest.mark.parametrize("end", ["first", "last"])
def test_frames_that_are_left_out(tmp_path, end):
    """What an edit list does is the packets' to tell."""
    path = write(tmp_path / "a.mp4", bframes=0, count=40, gop=40)
    content = bytearray(path.read_bytes())
    start = content.index(b"elst") + 4 + 8
    assert content[start : start + 8] == (1600).to_bytes(4, "big") + bytes(4)
    step = read_timeline(path).times[1]
    if end == "first":
        content[start + 4 : start + 8] = (10 * step).to_bytes(4, "big")
    else:
        content[start : start + 4] = (1200).to_bytes(4, "big")
    path.write_bytes(content)
    assert len(read_timeline(path).times) == 30
    assert read_index(path) is None
    check(path)


def test_a_cut_that_begins_in_the_middle(tmp_path):
    source, path = write(tmp_path / "a.mp4", bframes=0), tmp_path / "b.mp4"
    with av.open(str(source)) as old, av.open(str(path), "w") as new:
        stream = new.add_stream_from_template(old.streams.video[0])
        for place, packet in enumerate(x for x in old.demux(video=0) if x.size):
            if place >= 3:
                packet.is_keyframe |= place == 3
                packet.stream = stream
                new.mux(packet)
    assert read_timeline(path).doubtful
    assert read_index(path) is None


def test_a_first_frame_that_the_header_alone_takes_for_a_keyframe(tmp_path):
    path = write(tmp_path / "a.mp4", bframes=0, size=(16, 16), gop=6)
    content = bytearray(path.read_bytes())
    # The size of its first part.
    start = content.index(b"mdat") + 4
    content[start + 2 : start + 7] = bytes([197, 96, 15, 36, 41])
    path.write_bytes(content)
    assert read_index(path) is None
    with pytest.raises(VideoError, match="is damaged"):
        decode_uniform(path, 1)


def test_frames_at_the_same_time(tmp_path):
    path = write(tmp_path / "a.mp4", bframes=0)
    content = bytearray(path.read_bytes())
    # One entry: 40 frames, each so long.
    start = content.index(b"stts") + 4 + 8
    assert int.from_bytes(content[start : start + 4], "big") == 40
    content[start + 4 : start + 8] = bytes(4)
    path.write_bytes(content)
    assert read_timeline(path).doubtful
    assert read_index(path) is None


def test_samples_that_lie_in_another_file(tmp_path):
    write(tmp_path / "other.mov", bframes=0)
    path = odd_films.elsewhere(tmp_path / "a.mov", "other.mov", bframes=0)
    assert read_index(path) is None
    with pytest.raises(VideoError, match="holds none of the"):
        decode_uniform(path, 4)


def test_a_first_packet_that_cannot_be_read(tmp_path, monkeypatch):
    path = write(tmp_path / "a.mp4", bframes=0)
    real = header_index.open_video

    class Failing:
        def __init__(self, container):
            self.format, self.duration = container.format, container.duration

        def demux(self, stream):
            raise av.error.UndefinedError(1, "odd")
            yield

    @contextlib.contextmanager
    def opened(path):
        with real(path) as (container, stream):
            yield Failing(container), stream

    monkeypatch.setattr(header_index, "open_video", opened)
    assert read_index(path) is None
    check(path)
