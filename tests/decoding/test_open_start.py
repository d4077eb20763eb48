"""Files that only decoding from their beginning tells all of: cuts, palettes."""

import av
import numpy as np
import pytest
from odd_films import write_with

from data_pipelines.decoding.frames import VideoError, decode_uniform
from data_pipelines.decoding.sampling import uniform_indices

OPEN = (
    "open-gop=1:keyint=12:min-keyint=12:scenecut=0:repeat-headers=1:"
    "bframes=4:b-adapt=0:b-pyramid=normal:ref=4"
)


def cut_at_second_keyframe(source, target):
    """Copies packets as they are, without coding anew; returns the first one's time."""
    with av.open(str(source)) as old, av.open(str(target), "w") as new:
        stream = new.add_stream_from_template(old.streams.video[0])
        keyframes, first = 0, None
        for packet in old.demux(video=0):
            keyframes += packet.is_keyframe
            if keyframes < 2 or packet.dts is None:
                continue
            first = packet.pts if first is None else first
            packet.stream = stream
            new.mux(packet)
    return first


def plainly(path, after=None):
    """Every frame as the decoder gives it when nothing is asked of it."""
    with av.open(str(path)) as container:
        return [
            frame.to_ndarray(format="rgb24")
            for frame in container.decode(video=0)
            if after is None or frame.pts >= after
        ]


@pytest.fixture(params=["mkv", "ts"])
def whole(request, tmp_path):
    """The parts of a picture are told by sizes in the one, by marks in the other."""
    path = tmp_path / f"whole.{request.param}"
    return write_with(path, lambda stream: None, OPEN, count=50)


@pytest.mark.parametrize("count", [1, 5, 12, 60])
def test_a_cut_of_open_groups_is_decoded(whole, tmp_path, count):
    target = tmp_path / f"cut{whole.suffix}"
    first = cut_at_second_keyframe(whole, target)
    wanted = plainly(target)
    decoded = decode_uniform(target, count)
    assert decoded.total_frames == len(wanted) >= 35
    indices = uniform_indices(len(wanted), count)
    for frame, index in zip(decoded.frames, indices, strict=True):
        np.testing.assert_array_equal(frame, wanted[index])
    # They are those of the file that it was cut from.
    before = plainly(whole, first)
    tail = decoded.frames[indices.index(max(indices))]
    np.testing.assert_array_equal(tail, before[len(before) - len(wanted) + indices[-1]])


def test_a_strict_decoder_alone_would_refuse_it(whole, tmp_path, monkeypatch):
    target = tmp_path / f"cut{whole.suffix}"
    cut_at_second_keyframe(whole, target)
    name = "data_pipelines.decoding.frame_reader.begins_open"
    monkeypatch.setattr(name, lambda stream, first: False)
    with pytest.raises(VideoError, match="is damaged"):
        decode_uniform(target, 5)


@pytest.mark.parametrize("opened", [True, False])
def test_damage_is_still_an_error(tmp_path, opened):
    """Anywhere in a whole file; behind the second keyframe in one cut open."""
    source = tmp_path / "whole.mkv"
    write_with(source, lambda stream: None, OPEN, count=50)
    target = tmp_path / "cut.mkv"
    if opened:
        cut_at_second_keyframe(source, target)
    else:
        target = source
    with av.open(str(target)) as container:
        packets = [bytes(x) for x in container.demux(video=0) if x.size]
    # Behind the second keyframe of the cut one.
    data = max(packets[14 if opened else 1 :], key=len)
    content = target.read_bytes()
    assert content.count(data) == 1
    noise = np.random.default_rng(0).integers(0, 256, len(data) - 30, np.uint8)
    content = content.replace(data, data[:30] + noise.tobytes())
    target.write_bytes(content)
    with pytest.raises(VideoError) as caught:
        decode_uniform(target, 5)
    assert caught.value.status == "corrupt"


@pytest.mark.parametrize("count", [1, 3, 8])
def test_a_palette_is_kept_from_the_first_frame(tmp_path, count):
    path = tmp_path / "palette.avi"
    rng = np.random.default_rng(0)
    palette = rng.integers(0, 256, (256, 4), np.uint8)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("rawvideo", rate=25)
        stream.width, stream.height, stream.pix_fmt = 32, 24, "pal8"
        for _ in range(8):
            pixels = rng.integers(0, 256, (24, 32), np.uint8)
            frame = av.VideoFrame.from_ndarray((pixels, palette), "pal8")
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    wanted = plainly(path)
    decoded = decode_uniform(path, count)
    assert decoded.total_frames == len(wanted) == 8
    indices = uniform_indices(8, count)
    for frame, index in zip(decoded.frames, indices, strict=True):
        np.testing.assert_array_equal(frame, wanted[index])
