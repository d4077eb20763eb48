"""Decoding against a plain sequential decode of the whole file."""

import io
import os

import av
import numpy as np
import pytest
from PIL import Image
from written_films import decode_all, write

from data_pipelines.decoding.containers import open_video
from data_pipelines.decoding.frames import VideoError, decode_uniform, probe
from data_pipelines.decoding.images import encode_jpeg, resize_frame
from data_pipelines.decoding.sampling import uniform_indices


def test_the_uniform_rule():
    assert uniform_indices(24, 8) == [1, 4, 7, 10, 13, 16, 19, 22]
    assert uniform_indices(12, 12) == list(range(12))
    assert uniform_indices(3, 5) == [0, 1, 2, 2, 2]
    # linspace(0, 10, 4) as integers: 0, 3, 6, 10.
    assert uniform_indices(10, 3) == [1, 4, 7]


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("a.mp4", {"gop": 12}),
        ("a.mp4", {"gop": 250}),
        ("a.mp4", {"gop": 250, "bframes": 0}),
        ("a.mp4", {"count": 5}),
        ("a.mp4", {"size": (50, 34)}),
        ("a.mp4", {"gaps": [40, 15, 90, 33]}),
        ("a.mkv", {"gop": 9}),
        ("a.avi", {"codec": "mpeg4"}),
        ("a.avi", {"gop": 250}),
        ("a.3gp", {"codec": "mpeg4"}),
        ("a.mpg", {"codec": "mpeg2video"}),
        ("a.wmv", {"codec": "wmv2"}),
        ("a.flv", {}),
        ("a.ts", {"gop": 12}),
        ("a.mp4", {"codec": "libx265"}),
        ("a.webm", {"codec": "libvpx-vp9", "count": 16}),
        ("a.mp4", {"codec": "libsvtav1", "size": (64, 64), "count": 16}),
        ("a.gif", {"codec": "gif", "count": 10}),
    ],
)
def test_frames_are_those_of_a_full_decode(tmp_path, name, options):
    path = write(tmp_path / name, **options)
    every = decode_all(path)
    decoded = decode_uniform(path, 8)
    assert decoded.total_frames == len(every)
    expected = [every[i] for i in uniform_indices(len(every), 8)]
    np.testing.assert_array_equal(decoded.frames, expected)
    assert ("short" in decoded.notes) == (len(every) < 8)


@pytest.mark.parametrize("threads", [2, 4])
@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("a.mp4", {"gop": 12}),
        ("a.mp4", {"gop": 250}),
        ("a.mp4", {"gop": 250, "bframes": 0}),
        ("a.mkv", {"gop": 9, "gaps": [40, 15, 90, 33]}),
        ("a.ts", {"gop": 12}),
        ("a.mp4", {"codec": "libx265"}),
        ("a.webm", {"codec": "libvpx-vp9"}),
        ("a.mp4", {"codec": "libsvtav1", "size": (64, 64)}),
    ],
)
def test_threads_change_no_frame(tmp_path, name, options, threads):
    path = write(tmp_path / name, count=90, **options)
    for count in (1, 7, 90):
        alone, many = (decode_uniform(path, count, threads=x) for x in (1, threads))
        np.testing.assert_array_equal(alone.frames, many.frames)
        assert alone.total_frames == many.total_frames == 90


@pytest.mark.parametrize("count", [1, 7, 60])
@pytest.mark.parametrize("share", [0.2, 0.5, 0.8])
def test_threads_change_no_status(tmp_path, count, share):
    path = write(tmp_path / "a.mp4", count=60)
    content = bytearray(path.read_bytes())
    start = int(share * len(content))
    content[start : start + 300] = bytes(300)
    path.write_bytes(content)

    def outcome(threads):
        try:
            return decode_uniform(path, count, threads=threads).frames.tobytes()
        except VideoError as error:
            return error.status

    assert outcome(1) == outcome(2) == outcome(4)


def test_a_decoder_has_the_threads_that_it_is_given(tmp_path):
    """Also dav1d, which would take one for each core."""
    path = write(tmp_path / "a.mp4", codec="libsvtav1", size=(64, 64))
    for threads in (1, 3):
        before = len(os.listdir("/proc/self/task"))
        with open_video(path, threads) as (container, stream):
            next(container.decode(stream))
            more = len(os.listdir("/proc/self/task")) - before
        assert (more > 0) == (threads > 1)


def test_a_stream_that_was_joined_in_the_middle(tmp_path):
    """Its first packets give no frame, so packets are no measure of it."""
    whole = write(tmp_path / "whole.ts", count=60).read_bytes()
    # A transport stream is packets of 188 bytes; the tables come again and again.
    path = tmp_path / "tail.ts"
    path.write_bytes(whole[188 * (len(whole) // 188 // 3) :])
    every = decode_all(path)
    decoded = decode_uniform(path, 8)
    assert decoded.total_frames == len(every) < 60
    expected = [every[i] for i in uniform_indices(len(every), 8)]
    np.testing.assert_array_equal(decoded.frames, expected)


# Top row, then left to right: what a display matrix of so many degrees makes of it.
QUARTER_TURN = {
    0: (1, 0, 0, 1),
    90: (0, 1, -1, 0),
    180: (-1, 0, 0, -1),
    270: (0, -1, 1, 0),
}


@pytest.mark.parametrize("degrees", QUARTER_TURN)
def test_a_turned_video_is_turned_back(tmp_path, degrees):
    path = write(tmp_path / "a.mp4", size=(48, 64))
    upright = decode_uniform(path, 4)
    content = bytearray(path.read_bytes())
    # In the track's header, behind times, ids and volume.
    start = content.index(b"tkhd") + 4 + 40
    a, b, c, d = (x * 0x10000 for x in QUARTER_TURN[degrees])
    for place, value in ((0, a), (4, b), (12, c), (16, d)):
        content[start + place : start + place + 4] = value.to_bytes(
            4, "big", signed=True
        )
    path.write_bytes(content)
    turned = decode_uniform(path, 4)
    # The matrix turns clockwise, NumPy the other way.
    expected = np.rot90(upright.frames, -degrees // 90, axes=(1, 2))
    np.testing.assert_array_equal(turned.frames, expected)
    assert ("rotated" in turned.notes) == (degrees != 0)


def test_what_gives_no_frames_is_an_error(tmp_path):
    with pytest.raises(VideoError) as error:
        decode_uniform(tmp_path / "none.mp4", 4)
    assert error.value.status == "missing"
    for name, content in (("empty.mp4", b""), ("text.mp4", b"no video at all" * 99)):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(VideoError) as error:
            decode_uniform(tmp_path / name, 4)
        assert error.value.status == "unreadable"


@pytest.mark.parametrize("name", ["a.mp4", "a.mkv", "a.avi"])
@pytest.mark.parametrize("share", [0.3, 0.6])
def test_a_file_that_was_cut_off_is_an_error(tmp_path, name, share):
    path = write(tmp_path / name, count=100)
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * share)])
    with pytest.raises(VideoError) as error:
        decode_uniform(path, 4)
    assert error.value.status in ("unreadable", "truncated", "corrupt")


def test_a_hole_in_the_data_is_an_error(tmp_path):
    path = write(tmp_path / "a.mp4", count=60)
    content = bytearray(path.read_bytes())
    start = content.index(b"mdat") + 2000
    content[start : start + 1000] = bytes(1000)
    path.write_bytes(content)
    with pytest.raises(VideoError) as error:
        decode_uniform(path, 60)
    assert error.value.status == "corrupt"


def test_a_probe_believes_the_header_but_not_a_short_file(tmp_path):
    path = write(tmp_path / "a.mp4", options={"movflags": "faststart"})
    assert probe(path) == 40
    content = path.read_bytes()
    assert content.index(b"moov") < content.index(b"mdat")
    path.write_bytes(content[:-2000])
    with pytest.raises(VideoError) as error:
        probe(path)
    assert error.value.status == "truncated"
    assert probe(write(tmp_path / "a.mkv")) == 40
    sound = tmp_path / "sound.wav"
    with av.open(str(sound), "w") as container:
        stream = container.add_stream("pcm_s16le", rate=8000, layout="mono")
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 800), np.int16), "s16", "mono")
        frame.rate = 8000
        container.mux(stream.encode(frame))
    with pytest.raises(VideoError) as error:
        probe(sound)
    assert error.value.status == "no_video"


@pytest.mark.parametrize("shape", [(60, 80), (81, 47), (224, 224), (30, 31)])
def test_resizing_is_that_of_pil(shape):
    frame = np.random.default_rng(0).integers(0, 256, (*shape, 3), np.uint8)
    size = 32
    short = min(shape)
    scaled = [max(size, int(size * x / short)) for x in reversed(shape)]
    image = Image.fromarray(frame).resize(scaled, Image.Resampling.BICUBIC)
    left, top = (round((x - size) / 2) for x in scaled)
    expected = image.crop((left, top, left + size, top + size))
    np.testing.assert_array_equal(resize_frame(frame, size), expected)


def test_jpeg_keeps_colour_at_full_resolution():
    frame = np.zeros((16, 16, 3), np.uint8)
    frame[:, ::2] = (255, 0, 0)
    frame[:, 1::2] = (0, 0, 255)
    again = np.asarray(Image.open(io.BytesIO(encode_jpeg(frame))))
    # With subsampled chroma the stripes would mix to purple.
    assert np.abs(again.astype(int) - frame).mean() < 12


def test_before_jpeg_nothing_differs_from_a_full_decode_and_pil(tmp_path):
    path = write(tmp_path / "a.mp4", size=(90, 160))
    decoded = decode_uniform(path, 6)
    with av.open(str(path)) as container:
        every = [frame.to_image() for frame in container.decode(video=0)]
    wanted = [every[i] for i in uniform_indices(len(every), 6)]
    for frame, image in zip(decoded.frames, wanted, strict=True):
        image = image.resize((113, 64), Image.Resampling.BICUBIC)
        left = round((113 - 64) / 2)
        expected = np.asarray(image.crop((left, 0, left + 64, 64)))
        ours = resize_frame(frame, 64)
        np.testing.assert_array_equal(ours, expected)
        # Noise is the hardest; real clips lose a grey level or two.
        stored = np.asarray(Image.open(io.BytesIO(encode_jpeg(ours))))
        assert np.abs(stored.astype(int) - ours).mean() < 4
