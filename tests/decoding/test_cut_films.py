"""Files that look odd and are whole, and files that were cut: one answer each."""

from fractions import Fraction

import av
import numpy as np
import odd_films
import pytest
from written_films import decode_all, write

from data_pipelines.decoding.frames import VideoError, decode_uniform, probe
from data_pipelines.decoding.packets import _HIDES
from data_pipelines.decoding.sampling import uniform_indices

COUNTS = (1, 2, 4, 12, 60)


def answers(path):
    found = set()
    for count in COUNTS:
        try:
            decode_uniform(path, count)
            found.add("ok")
        except VideoError as error:
            found.add(error.status)
    return found


def is_exact(path, every=None):
    every = decode_all(path) if every is None else every
    for count in COUNTS:
        decoded = decode_uniform(path, count)
        assert decoded.total_frames == len(every)
        expected = [every[i] for i in uniform_indices(len(every), count)]
        np.testing.assert_array_equal(decoded.frames, expected)


def with_packets(path, change, source=None, tags=None, **options):
    """A copy of a film without decoding, its packets changed."""
    source = source or write(path.with_name("source.mp4"))
    with av.open(str(source)) as origin, av.open(str(path), "w", **options) as copy:
        stream = copy.add_stream_from_template(origin.streams.video[0])
        stream.metadata.update(tags or {})
        packets = [x for x in origin.demux(video=0) if x.size]
        for packet in change(packets):
            packet.stream = stream
            copy.mux(packet)
    return path


def slow(path):
    """A frame a second; the last is displayed for a second."""
    with av.open(str(path), "w") as container:
        codec = "libvpx" if path.suffix == ".webm" else "libx264"
        stream = container.add_stream(codec, rate=1)
        stream.width, stream.height, stream.pix_fmt = 32, 32, "yuv420p"
        for i in range(10):
            pixels = np.full((32, 32, 3), 20 * i, np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, "rgb24")))
        container.mux(stream.encode(None))
    return path


@pytest.mark.parametrize("name", ["a.mkv", "a.webm", "a.mp4", "a.flv", "a.ts"])
def test_a_last_frame_that_lasts(tmp_path, name):
    is_exact(slow(tmp_path / name))


@pytest.mark.parametrize("codec", ["mpeg4", "wmv2", "libx264"])
def test_chunks_without_bytes_in_an_avi(tmp_path, codec):
    def leave_gaps(packets):
        for number, packet in enumerate(packets):
            packet.pts = packet.dts = number + number // 2
            packet.time_base = Fraction(1, 25)
            yield packet

    source = write(tmp_path / "source.avi", codec=codec, bframes=0, gop=10)
    every = decode_all(source)
    path = with_packets(tmp_path / "a.avi", leave_gaps, source)
    with av.open(str(path)) as container:
        # The header counts the empty ones.
        assert container.streams.video[0].frames > len(every)
    is_exact(path, every)


@pytest.mark.parametrize("name", ["a.nut", "a.mkv"])
def test_a_duration_that_was_left_over(tmp_path, name):
    source = write(tmp_path / "source.mp4", bframes=0)
    tags = {"DURATION": "00:01:00.000000000"}
    path = with_packets(tmp_path / name, iter, source, tags)
    is_exact(path, decode_all(source))


def trimmed(packets):
    """Starts between two keyframes: times before 0 are left out by an edit list."""
    for packet in packets:
        packet.pts -= 6 * 512
        packet.dts -= 6 * 512
        yield packet


def late(packets):
    for packet in packets:
        packet.pts += 10**6
        packet.dts += 10**6
        yield packet


@pytest.mark.parametrize("name", ["a.mp4", "a.mkv"])
@pytest.mark.parametrize("change", [trimmed, late])
def test_times_that_begin_elsewhere(tmp_path, name, change):
    is_exact(with_packets(tmp_path / name, change))


def test_a_clock_that_starts_again(tmp_path):
    parts = [write(tmp_path / f"{i}.ts", count=24).read_bytes() for i in range(2)]
    path = tmp_path / "a.ts"
    path.write_bytes(b"".join(parts))
    assert len(decode_all(path)) == 48
    is_exact(path)


def test_a_clock_that_goes_back_between_its_ticks(tmp_path):
    """No two frames have the same time; their order is still that of the file."""

    def later(packets):
        for packet in packets:
            packet.pts += 256
            packet.dts += 256
            yield packet

    source = write(tmp_path / "source.mp4", count=48, bframes=0)
    parts = [
        with_packets(tmp_path / f"{i}.ts", change, source).read_bytes()
        for i, change in enumerate((iter, later))
    ]
    path = tmp_path / "a.ts"
    path.write_bytes(b"".join(parts))
    with av.open(str(path)) as container:
        times = [x.pts for x in container.demux(video=0) if x.size]
    assert len(set(times)) == len(times) == 96
    assert times != sorted(times)
    is_exact(path)


@pytest.mark.parametrize("start", [2**33 - 20 * 3600, 2**33 - 31 * 3600])
def test_a_clock_that_wraps(tmp_path, start):
    def shift(packets):
        for packet in packets:
            packet.pts += start * 512 // 3600
            packet.dts += start * 512 // 3600
            yield packet

    path = with_packets(tmp_path / "a.ts", shift)
    with av.open(str(path), options={"correct_ts_overflow": "0"}) as container:
        times = [x.pts for x in container.demux(video=0) if x.size]
    # Half of the frames come behind the wrap.
    assert max(times) - min(times) > 2**32
    is_exact(path)


@pytest.mark.parametrize(
    "params",
    [
        "open-gop=1:keyint=9:bframes=3",
        "intra-refresh=1:keyint=9",
        "keyint=1",
        "keyint=10:bframes=3:b-pyramid=normal:ref=4",
    ],
)
@pytest.mark.parametrize("name", ["a.mp4", "a.mkv", "a.ts"])
def test_ways_of_coding(tmp_path, params, name):
    is_exact(odd_films.write_with(tmp_path / name, lambda stream: None, params, 50))


@pytest.mark.parametrize("codec", ["libvpx", "libvpx-vp9"])
def test_frames_that_are_only_referred_to(tmp_path, codec):
    path = tmp_path / "a.webm"
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=25)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        stream.options = {"auto-alt-ref": "1", "lag-in-frames": "16", "cpu-used": "4"}
        base = np.random.default_rng(0).integers(0, 256, (48, 64, 3))
        for i in range(40):
            pixels = np.roll(base, i, axis=1).astype(np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, "rgb24")))
        container.mux(stream.encode(None))
    is_exact(path)


def test_a_frame_that_is_not_displayed(tmp_path):
    """Its packet looks like any other; one bit of its header says so."""

    def hide(packets):
        for i, packet in enumerate(packets):
            data = bytearray(bytes(packet))
            if i in (5, 6, 17):
                data[0] &= ~0x10
            hidden = av.Packet(bytes(data))
            hidden.pts, hidden.dts = packet.pts, packet.dts
            hidden.time_base, hidden.is_keyframe = packet.time_base, packet.is_keyframe
            yield hidden

    source = write(tmp_path / "source.webm", codec="libvpx", count=24)
    path = with_packets(tmp_path / "a.webm", hide, source)
    assert len(decode_all(path)) == 21
    is_exact(path)


@pytest.mark.parametrize(
    ("data", "hidden"),
    [
        (b"\x86\0", False),
        (b"\x84\0", True),
        # It shows a frame that was decoded before.
        (b"\x88\0", False),
        # Several frames, with an index at the end.
        (b"\x84\0\xc1", False),
        # Profile 3: a bit more in front of the others.
        (b"\xb1\0", False),
        (b"\xb0\0", True),
        (b"\x84", True),
    ],
)
def test_vp9_says_which_frames_are_displayed(data, hidden):
    assert _HIDES["vp9"](av.Packet(data)) == hidden


def test_an_avi_that_says_too_large_a_size(tmp_path):
    path = write(tmp_path / "a.avi", codec="mpeg4")
    every = decode_all(path)
    content = bytearray(path.read_bytes())
    place = content.index(b"movi") - 4
    size = int.from_bytes(content[place : place + 4], "little") + 10**6
    content[place : place + 4] = size.to_bytes(4, "little")
    path.write_bytes(content)
    is_exact(path, every)


FRAGMENTS = {"movflags": "frag_keyframe+empty_moov"}


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("a.mp4", {"options": FRAGMENTS}),
        (
            "a.mp4",
            {"options": {**FRAGMENTS, "movflags": "frag_keyframe+empty_moov+dash"}},
        ),
        ("a.mp4", {"options": {"movflags": "faststart"}}),
        ("a.flv", {}),
        ("a.mkv", {}),
        ("a.avi", {"codec": "mpeg4"}),
        ("a.ts", {}),
        ("a.mpg", {"codec": "mpeg2video"}),
        ("a.wmv", {"codec": "wmv2"}),
        ("a.gif", {"codec": "gif"}),
        ("a.nut", {}),
    ],
)
def test_a_cut_file_has_one_answer(tmp_path, name, options):
    whole = write(tmp_path / name, count=60, **options)
    is_exact(whole)
    content = whole.read_bytes()
    path = tmp_path / f"cut{whole.suffix}"
    rng = np.random.default_rng(0)
    for length in rng.integers(len(content) // 3, len(content) - 1, 12):
        path.write_bytes(content[:length])
        [answer] = answers(path)
        if whole.suffix in (".mp4", ".flv", ".mkv", ".avi"):
            try:
                complete = len(decode_all(path)) == 60
            except av.error.FFmpegError:
                complete = False
            # What lies behind the last frame can be done without.
            assert answer == "truncated" or (complete and answer == "ok")


def test_a_cut_is_seen_without_decoding(tmp_path):
    for name, options in (
        ("a.mkv", {}),
        ("a.flv", {}),
        ("b.mp4", {"options": FRAGMENTS}),
    ):
        path = odd_films.cut(write(tmp_path / name, count=60, **options), -3000)
        with pytest.raises(VideoError) as error:
            probe(path)
        assert error.value.status == "truncated"


@pytest.mark.parametrize("name", ["a.mp4", "a.mkv", "a.flv", "a.avi", "a.ts"])
def test_bytes_that_follow_do_no_harm(tmp_path, name):
    path = write(tmp_path / name, count=30, bframes=0)
    every = decode_all(path)
    path.write_bytes(path.read_bytes() + bytes(600))
    is_exact(path, every)


# Containers of parts in a row, each of a stated size -> a codec of theirs.
IN_A_ROW = {
    ".ivf": ("libvpx", "yuv420p"),
    ".y4m": ("wrapped_avframe", "yuv420p"),
    ".gif": ("gif", "rgb8"),
    ".wmv": ("wmv2", "yuv420p"),
    ".mxf": ("mpeg2video", "yuv420p"),
}


def in_a_row(path, count=24):
    codec, pixels = IN_A_ROW[path.suffix]
    noise = np.random.default_rng(2).integers(0, 256, (48, 64, 3)).astype(np.uint8)
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=25)
        stream.width, stream.height, stream.pix_fmt = 64, 48, pixels
        for i in range(count):
            frame = av.VideoFrame.from_ndarray(np.roll(noise, 3 * i, 1), "rgb24")
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


@pytest.mark.parametrize("suffix", IN_A_ROW)
@pytest.mark.parametrize("count", [1, 12])
def test_a_cut_is_told_by_the_size_of_the_part_it_is_in(tmp_path, suffix, count):
    path = in_a_row(tmp_path / f"film{suffix}")
    content = path.read_bytes()
    assert decode_uniform(path, count).total_frames == 24
    for share in (0.35, 0.6, 0.85):
        # Not where one part ends and the next begins, which nothing tells.
        path.write_bytes(content[: int(share * len(content))])
        with pytest.raises(VideoError) as raised:
            decode_uniform(path, count)
        assert raised.value.status == "truncated"
    # A byte too many is no cut.
    path.write_bytes(content + b"\0")
    assert decode_uniform(path, count).total_frames == 24


def test_of_a_gif_the_last_byte_is_dispensable(tmp_path):
    path = in_a_row(tmp_path / "film.gif")
    path.write_bytes(path.read_bytes()[:-1])
    assert decode_uniform(path, 3).total_frames == 24


@pytest.mark.parametrize("codec", ["libvpx", "libvpx-vp9"])
@pytest.mark.parametrize("behind", [b"text\n" * 99, b"\xff" * 999, "itself"])
def test_what_follows_the_counted_frames_of_an_ivf_is_left(tmp_path, codec, behind):
    path = write(tmp_path / "film.ivf", codec, count=24)
    content, every = path.read_bytes(), decode_all(path)
    path.write_bytes(content + (content if behind == "itself" else behind))
    is_exact(path, every)
    # Damage among the counted ones is still seen.
    middle = len(content) // 2
    path.write_bytes(content[:middle] + b"text\n" * 999)
    with pytest.raises(VideoError):
        decode_uniform(path, 24)
