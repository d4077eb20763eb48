"""Ends of files: incomplete last packets, appended bytes. Pictures beside a video."""

import av
import numpy as np
import pytest
from written_films import decode_all, write

from data_pipelines.decoding.frames import VideoError, decode_uniform, probe

PACKET = 188


def status_of(path):
    with pytest.raises(VideoError) as raised:
        decode_uniform(path, 3)
    return raised.value.status


def transport(path, length):
    """A transport stream of packets of that many bytes."""
    content = write(path).read_bytes()
    packets = [content[i : i + PACKET] for i in range(0, len(content), PACKET)]
    # A time in front, as in recordings, or check bytes behind, as in broadcasts.
    front, back = {188: (0, 0), 192: (4, 0), 204: (0, 16)}[length]
    path.write_bytes(b"".join(bytes(front) + x + bytes(back) for x in packets))
    return path


@pytest.mark.parametrize("length", [188, 192, 204])
def test_an_incomplete_last_packet_is_a_cut(tmp_path, length):
    path = transport(tmp_path / "a.ts", length)
    content = path.read_bytes()
    assert decode_uniform(path, 3).total_frames == 40
    packets = len(content) // length
    for end in (-1, 10 - length, packets * 2 // 3 * length + 50 - len(content)):
        path.write_bytes(content[:end])
        assert status_of(path) == "truncated"
        with pytest.raises(VideoError, match="cut off"):
            probe(path)
    # Nothing tells a cut between two packets.
    path.write_bytes(content[: packets * 2 // 3 * length])
    assert 20 < decode_uniform(path, 3).total_frames < 40


@pytest.mark.parametrize("length", [188, 192, 204])
@pytest.mark.parametrize("behind", [b"text", b"x" * 187, b"x" * 188, bytes(1000)])
def test_what_follows_a_transport_stream_is_left(tmp_path, length, behind):
    path = transport(tmp_path / "a.ts", length)
    content = path.read_bytes()
    path.write_bytes(content + behind)
    assert decode_uniform(path, 3).total_frames == 40
    # Packets that do not follow each other closely are of no known length.
    middle = len(content) // length // 2 * length
    path.write_bytes(content[:middle] + b"text" + content[middle:])
    assert decode_uniform(path, 3).total_frames == 40


def raw(path, count=6):
    with av.open(str(path), "w") as container:
        stream = container.add_stream("rawvideo", rate=25)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        for i in range(count):
            pixels = np.full((48, 64, 3), 20 * i, np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, "rgb24")))
        container.mux(stream.encode(None))
    return path


def test_what_follows_frames_of_equal_length_is_left_if_it_is_shorter(tmp_path):
    path = raw(tmp_path / "a.y4m")
    content, every = path.read_bytes(), decode_all(path)
    frame = 64 * 48 * 3 // 2
    for behind in (b"text", bytes(300), b"\xff" * (frame - 1)):
        path.write_bytes(content + behind)
        decoded = decode_uniform(path, len(every))
        np.testing.assert_array_equal(decoded.frames, every)
    # It may have been a frame.
    path.write_bytes(content + b"\xff" * (frame + len(b"FRAME\n")))
    assert status_of(path) == "corrupt"
    # So may what follows damage in the middle, or is the rest.
    second = content.index(b"FRAME", len(content) // 2)
    path.write_bytes(content[:second] + b"FRXME" + content[second + 5 :])
    assert status_of(path) == "corrupt"
    path.write_bytes(content[:second] + b"\xff" * (len(content) - second))
    assert status_of(path) == "corrupt"


@pytest.mark.parametrize("size", [1 << 45, (1 << 63) - 1, (1 << 64) - 1])
def test_a_size_of_64_bits_leads_nowhere(tmp_path, size):
    """A system refuses to seek so far, or Python to ask for it."""
    path = write(tmp_path / "a.mp4")
    content = path.read_bytes()
    path.write_bytes(content + b"\0\0\0\1free" + size.to_bytes(8, "big") + bytes(9))
    assert decode_uniform(path, 3).total_frames == 40
    path = write(tmp_path / "a.wmv", codec="wmv2")
    content, total = path.read_bytes(), len(decode_all(path))
    path.write_bytes(content + b"x" * 16 + size.to_bytes(8, "little") + bytes(9))
    assert decode_uniform(path, 3).total_frames == total


def test_the_frames_of_an_animated_picture_are_its_video(tmp_path):
    path = tmp_path / "a.avif"
    with av.open(str(path), "w", format="avif") as container:
        stream = container.add_stream("libsvtav1", rate=10)
        stream.width, stream.height, stream.pix_fmt = 64, 64, "yuv420p"
        stream.options = {"preset": "12"}
        for i in range(8):
            pixels = np.full((64, 64, 3), 25 * i, np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, "rgb24")))
        container.mux(stream.encode(None))
    with av.open(str(path)) as container:
        # Its first picture, and all of them.
        assert [x.frames for x in container.streams.video] == [1, 8]
        second = container.streams.video[1]
        every = [x.to_ndarray(format="rgb24") for x in container.decode(second)]
    decoded = decode_uniform(path, 8)
    np.testing.assert_array_equal(decoded.frames, every)
    assert (probe(path), decoded.notes) == (8, ())
