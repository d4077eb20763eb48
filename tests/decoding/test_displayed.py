"""Frames as a player displays them, and the stream that it would take."""

import gc
from fractions import Fraction

import av
import numpy as np
import odd_films
import pytest
from av.stream import Disposition
from films import film
from PIL import Image
from written_films import decode_all, write

from data_pipelines.decoding.frames import VideoError, decode_uniform
from data_pipelines.decoding.images import resize_frame
from data_pipelines.decoding.sampling import uniform_indices

# A matrix (a, b, c, d) displays the point (x, y) at (a x + c y, b x + d y).
MATRICES = [
    (a, b, c, d)
    for a, b, c, d in [
        *((x, 0, 0, y) for x in (1, -1) for y in (1, -1)),
        *((0, x, y, 0) for x in (1, -1) for y in (1, -1)),
    ]
]


def by_matrix(pixels, a, b, c, d):
    """Each pixel moved to where the matrix sends it."""
    height, width = pixels.shape[:2]
    y, x = np.mgrid[:height, :width]
    across, down = a * x + c * y, b * x + d * y
    across, down = across - across.min(), down - down.min()
    moved = np.zeros((down.max() + 1, across.max() + 1, 3), np.uint8)
    moved[down, across] = pixels
    return moved


@pytest.mark.parametrize("matrix", MATRICES, ids=str)
def test_the_whole_display_matrix_counts(tmp_path, matrix):
    path = odd_films.turned(tmp_path / "a.mp4", *matrix)
    decoded = decode_uniform(path, 4)
    every = decode_all(path)
    for frame, index in zip(decoded.frames, uniform_indices(8, 4), strict=True):
        np.testing.assert_array_equal(frame, by_matrix(every[index], *matrix))
    assert decoded.notes == (() if matrix == (1, 0, 0, 1) else ("rotated",))


@pytest.mark.parametrize(
    ("degrees", "nearest"), [(40, 0), (50, 90), (-44, 0), (170, 180), (-100, -90)]
)
def test_another_angle_is_the_nearest_quarter_turn(tmp_path, degrees, nearest):
    def rotation(stream):
        stream.set_display_rotation(degrees)

    path = odd_films.write_with(tmp_path / "a.mp4", rotation)
    decoded = decode_uniform(path, 8)
    expected = [np.rot90(frame, nearest // 90) for frame in decode_all(path)]
    np.testing.assert_array_equal(decoded.frames, expected)


def test_a_matrix_in_the_stream_counts(tmp_path):
    """Display orientation SEI: payload 47, here a horizontal flip."""
    path = odd_films.write_with(tmp_path / "a.h264", lambda stream: None)
    content = path.read_bytes()
    # Not cancelled, flipped across alone, no angle, until cancelled, no extension.
    bits = "010" + "0" * 16 + "010" + "0" + "1"
    body = int(bits.ljust(24, "0"), 2).to_bytes(3, "big")
    sei = b"\0\0\0\1\6\x2f\3" + body.replace(b"\0\0", b"\0\0\3") + b"\x80"
    first = content.index(b"\0\0\1\x65")
    path.write_bytes(content[:first] + sei + content[first:])
    decoded = decode_uniform(path, 8)
    np.testing.assert_array_equal(
        decoded.frames[0], np.flip(decode_all(path)[0], axis=1)
    )
    assert decoded.notes == ("rotated",)


@pytest.mark.parametrize("aspect", [(4, 3), (1, 2), (16, 11), (10, 1)])
def test_pixels_are_stretched_to_the_displayed_shape(tmp_path, aspect):
    path = odd_films.with_aspect(tmp_path / "a.mp4", *aspect)
    decoded = decode_uniform(path, 8)
    width = round(64 * Fraction(*aspect))
    expected = [
        np.asarray(Image.fromarray(x).resize((width, 48), Image.Resampling.BICUBIC))
        for x in decode_all(path)
    ]
    np.testing.assert_array_equal(decoded.frames, expected)
    assert decoded.notes == ("stretched",)
    small = decode_uniform(path, 8, image_size=32)
    np.testing.assert_array_equal(
        small.frames, [resize_frame(frame, 32) for frame in expected]
    )
    ignored = decode_uniform(path, 8, ignore_pixel_aspect=True)
    np.testing.assert_array_equal(ignored.frames, decode_all(path))
    assert ignored.notes == ()


def test_pixels_are_stretched_before_the_frame_is_turned(tmp_path):
    path = odd_films.turned(tmp_path / "a.mp4", 0, 1, -1, 0)
    upright = decode_uniform(path, 2).frames
    assert upright.shape[1:3] == (64, 48)

    def turn(stream):
        stream.set_display_rotation(-90)

    path = odd_films.write_with(tmp_path / "b.mp4", turn, "sar=2/1")
    decoded = decode_uniform(path, 2)
    assert decoded.frames.shape[1:3] == (128, 48)
    assert decoded.notes == ("rotated", "stretched")


@pytest.mark.parametrize("aspect", [(1, 10_000), (10_000, 1), (0, 1), (1, 0), (1, 1)])
def test_an_aspect_that_cannot_be_is_ignored(tmp_path, aspect):
    path = odd_films.with_aspect(tmp_path / "a.mp4", *aspect)
    # The header is absurd; the stream's own parameters still say 4 to 3, or nothing.
    decoded = decode_uniform(path, 2)
    assert decoded.frames.shape[1:3] in [(48, 64), (48, 85)]


@pytest.mark.parametrize("transfer", ["smpte2084", "arib-std-b67"])
def test_high_dynamic_range_is_noted(tmp_path, transfer):
    path = odd_films.hdr(tmp_path / "a.mp4", transfer)
    assert decode_uniform(path, 2).notes == ("hdr",)
    assert decode_uniform(film(tmp_path / "b.mp4"), 2).notes == ()


def test_frames_of_a_changing_size(tmp_path):
    path = odd_films.resized(tmp_path / "a.ts")
    every = decode_all(path)
    assert {x.shape for x in every} == {(48, 64, 3), (64, 64, 3)}
    wanted = [every[i] for i in uniform_indices(len(every), 6)]
    decoded = decode_uniform(path, 6)
    assert decoded.total_frames == len(every)
    assert decoded.notes == ("resized",)
    for frame, expected in zip(decoded.frames, wanted, strict=True):
        np.testing.assert_array_equal(frame, expected)
    small = decode_uniform(path, 6, image_size=24)
    np.testing.assert_array_equal(
        small.frames, [resize_frame(frame, 24) for frame in wanted]
    )


NOTHING, DEFAULT = Disposition(0), Disposition.default


@pytest.mark.parametrize(
    ("sizes", "dispositions", "taken"),
    [
        ([(32, 32), (64, 64)], [NOTHING, NOTHING], 2),
        ([(32, 32), (64, 64)], [DEFAULT, DEFAULT], 2),
        ([(32, 32), (64, 64)], [DEFAULT, NOTHING], 1),
        ([(64, 64), (32, 32)], [NOTHING, DEFAULT], 2),
        ([(64, 64), (64, 64)], [DEFAULT, DEFAULT], 1),
    ],
)
def test_the_stream_is_the_one_that_ffmpeg_takes(tmp_path, sizes, dispositions, taken):
    path = odd_films.streams(tmp_path / "a.mkv", sizes, dispositions)
    with av.open(str(path)) as container:
        stored = [stream.disposition for stream in container.streams.video]
    assert [bool(x & DEFAULT) for x in stored] == [bool(x) for x in dispositions]
    decoded = decode_uniform(path, 3)
    assert decoded.frames.shape[1:3] == sizes[taken - 1]
    assert abs(decoded.frames.mean() - 40 * taken) < 4


def test_a_cover_is_not_a_video(tmp_path):
    path = odd_films.sound(tmp_path / "a.mp4", cover=True)
    with av.open(str(path)) as container:
        assert len(container.streams.video) == 1
    with pytest.raises(VideoError) as error:
        decode_uniform(path, 2)
    assert error.value.status == "no_video"
    assert decode_uniform(write(tmp_path / "b.mp4"), 2).total_frames == 40


def test_a_frame_is_freed_without_the_collector(tmp_path):
    """It would count hundreds of large frames as hundreds of small objects."""
    path = odd_films.turned(tmp_path / "a.mp4", 0, 1, -1, 0)
    gc.collect()
    gc.disable()
    try:
        assert decode_uniform(path, 4).notes == ("rotated",)
        # `isinstance` would ask objects that load what they stand for only then.
        left = [x for x in gc.get_objects() if issubclass(type(x), av.VideoFrame)]
    finally:
        gc.enable()
    assert not left
