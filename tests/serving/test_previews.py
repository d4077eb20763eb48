"""Previews: what is shown, what is played as it is, and what keeps them bounded."""

import json
import os
import subprocess
import sys
import threading
import time
from fractions import Fraction

import av
import numpy as np
import pytest
from written_films import write

from data_pipelines.console.errors import UserError
from vop_jax.serving import preview_job, previews
from vop_jax.serving.preview_job import HEIGHT, RATE, PreviewJob, do_job
from vop_jax.serving.previews import PreviewError, Previews, cache_folder

BLUE, RED = (0, 0, 255), (255, 0, 0)


def film(
    path,
    codec="mpeg4",
    seconds=4.0,
    size=(64, 48),
    rate=25,
    switch=2.0,
    sound=False,
    rotation=0,
    gop=12,
):
    """A film that is blue until `switch`, then red; a tone begins with the red."""
    with av.open(str(path), "w") as container:
        video = container.add_stream(codec, rate=rate)
        video.width, video.height = size
        video.pix_fmt = "yuv420p"
        video.gop_size = gop
        audio = container.add_stream("aac", rate=44100) if sound else None
        for i in range(round(seconds * rate)):
            colour = BLUE if i / rate < switch else RED
            pixels = np.full((size[1], size[0], 3), colour, np.uint8)
            # A mark on the left side, to see which way is up.
            pixels[:, : size[0] // 4] = (255, 255, 255)
            frame = av.VideoFrame.from_ndarray(pixels, "rgb24")
            container.mux(video.encode(frame))
        container.mux(video.encode(None))
        if audio is not None:
            time = np.arange(round(seconds * 44100)) / 44100
            wave = np.where(time < switch, 0, np.sin(time * 2764)).astype(np.float32)
            for at in range(0, len(wave) - 1024, 1024):
                frame = av.AudioFrame.from_ndarray(
                    np.tile(wave[at : at + 1024], (1, 1)), "fltp", "mono"
                )
                frame.sample_rate, frame.pts = 44100, at
                frame.time_base = Fraction(1, 44100)
                container.mux(audio.encode(frame))
            container.mux(audio.encode(None))
    return path


def made(tmp_path, video, start, end):
    """A preview, made in this process: times and frames."""
    output = tmp_path / "preview.mp4"
    outcome = do_job(PreviewJob(str(video), str(output), start, end))
    assert outcome == {}
    return read(output)


def read(path):
    with av.open(str(path)) as container:
        assert container.streams.video[0].codec_context.name == "h264"
        frames = [
            (float(x.pts * x.time_base), x.to_ndarray(format="rgb24"))
            for x in container.decode(video=0)
        ]
    return [x for x, _ in frames], [x for _, x in frames]


def is_red(frame):
    height, width = frame.shape[:2]
    red, _, blue = frame[height // 2, width * 3 // 4].astype(int)
    return red > blue


@pytest.mark.parametrize(
    ("name", "codec", "size"),
    [
        ("a.avi", "mpeg4", (64, 48)),
        ("b.ts", "mpeg2video", (64, 48)),
        ("c.mkv", "libx264", (64, 48)),
        ("d.mov", "libx264", (64, 48)),
        ("e.mpg", "mpeg1video", (64, 48)),
        ("f.wmv", "wmv2", (64, 48)),
        # Odd, and larger than a preview.
        ("g.mkv", "ffv1", (1001, 701)),
    ],
)
def test_a_preview_is_the_stretch_alone(tmp_path, name, codec, size):
    video = film(tmp_path / name, codec, size=size, gop=60)
    times, frames = made(tmp_path, video, 1.0, 3.0)
    assert times[0] == 0
    assert len(times) == pytest.approx(50, abs=1)
    assert times[-1] == pytest.approx(1.96, abs=0.05)
    switch = next(x for x, frame in zip(times, frames, strict=True) if is_red(frame))
    assert switch == pytest.approx(1.0, abs=0.05)
    height, width = frames[0].shape[:2]
    assert height <= HEIGHT
    assert width / height == pytest.approx(size[0] / size[1], rel=0.03)
    assert (height % 2, width % 2) == (0, 0)
    with av.open(str(tmp_path / "preview.mp4")) as container:
        assert container.streams.video[0].codec_context.pix_fmt == "yuv420p"
    # The index comes first, so that a player need not read to the end.
    content = (tmp_path / "preview.mp4").read_bytes()
    assert content.index(b"moov") < content.index(b"mdat")


def test_sound_comes_along(tmp_path):
    video = film(tmp_path / "a.mkv", "libx264", sound=True)
    made(tmp_path, video, 1.0, 3.0)
    with av.open(str(tmp_path / "preview.mp4")) as container:
        stream = container.streams.audio[0]
        assert stream.codec_context.name == "aac"
        sound = [
            (float(x.pts * x.time_base), float(np.abs(x.to_ndarray()).max()))
            for x in container.decode(audio=0)
        ]
    assert sound[-1][0] == pytest.approx(2.0, abs=0.1)
    loud = next(time for time, most in sound if most > 0.2)
    assert loud == pytest.approx(1.0, abs=0.1)
    # A stretch without any: the picture is there.
    silent = film(tmp_path / "b.mkv", "libx264")
    assert made(tmp_path, silent, 0.0, 1.0)[0]


def test_few_frames_a_second_and_many(tmp_path):
    """A stretch begins with the frame before it; of many frames some are left out."""
    slow = film(tmp_path / "slow.avi", rate=1, seconds=6)
    times, frames = made(tmp_path, slow, 1.5, 3.5)
    assert times == pytest.approx([0, 0.5, 1.5], abs=0.02)
    assert [is_red(x) for x in frames] == [False, True, True]
    # Between two frames, and behind the last.
    assert [is_red(x) for x in made(tmp_path, slow, 2.1, 2.3)[1]] == [True]
    assert [is_red(x) for x in made(tmp_path, slow, 50, 60)[1]] == [True]
    fast = film(tmp_path / "fast.mkv", "ffv1", rate=100, seconds=2)
    times, _ = made(tmp_path, fast, 0.0, 2.0)
    assert len(times) <= 2 * RATE + 2
    assert len(times) > 40


def test_a_turned_film_is_shown_upright(tmp_path):
    video = film(tmp_path / "a.mkv", "libx264")
    turned = tmp_path / "turned.mov"
    with av.open(str(video)) as source, av.open(str(turned), "w") as target:
        stream = target.add_stream_from_template(source.streams.video[0])
        for packet in source.demux(source.streams.video[0]):
            if packet.dts is not None:
                packet.stream = stream
                target.mux(packet)
    content = turned.read_bytes()
    # The display matrix of the track, of a quarter turn.
    plain = np.array([1 << 16, 0, 0, 0, 1 << 16, 0, 0, 0, 1 << 30], ">i4").tobytes()
    quarter = np.array([0, 1 << 16, 0, -(1 << 16), 0, 0, 0, 0, 1 << 30], ">i4")
    at = content.index(plain, content.index(b"tkhd"))
    turned.write_bytes(content[:at] + quarter.tobytes() + content[at + len(plain) :])
    _, frames = made(tmp_path, turned, 0.0, 1.0)
    height, width = frames[0].shape[:2]
    assert height > width
    # The mark of the left side is now above.
    assert frames[0][2, width // 2].min() > 200
    assert frames[0][-3, width // 2].min() < 100


@pytest.mark.parametrize(
    ("name", "codec", "direct"),
    [
        ("a.mp4", "libx264", "video/mp4"),
        ("a.m4v", "libx264", "video/mp4"),
        ("a.webm", "libvpx-vp9", "video/webm"),
        ("b.webm", "libvpx", "video/webm"),
        ("a.mkv", "libx264", None),
        ("a.mov", "libx264", None),
        ("b.mp4", "mpeg4", None),
        ("c.mp4", "libx265", None),
    ],
)
def test_what_browsers_play_is_played_as_it_is(tmp_path, name, codec, direct):
    kept = Previews(tmp_path / "cache")
    options = {} if codec != "libx265" else {"codec": codec}
    video = (
        write(tmp_path / name, **options) if options else film(tmp_path / name, codec)
    )
    clip = kept.clip(video, 0.0, 1.0)
    if direct:
        assert clip == (video, direct, False)
        assert not list((tmp_path / "cache").iterdir())
    else:
        assert clip.is_preview
        assert clip.media_type == "video/mp4"
        assert len(read(clip.path)[0]) > 20


def test_a_pixel_format_that_browsers_lack_is_converted(tmp_path):
    video = tmp_path / "a.mp4"
    with av.open(str(video), "w") as container:
        stream = container.add_stream("libx264", rate=25)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv444p"
        for _ in range(5):
            frame = av.VideoFrame.from_ndarray(np.zeros((48, 64, 3), np.uint8), "rgb24")
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    assert Previews(tmp_path / "cache").clip(video, 0.0, 1.0).is_preview


def test_a_preview_is_made_once(tmp_path, monkeypatch):
    kept = Previews(tmp_path / "cache")
    video = film(tmp_path / "a.avi")
    jobs = []
    run = Previews._run
    monkeypatch.setattr(
        Previews, "_run", lambda self, job: jobs.append(job) or run(self, job)
    )
    first = kept.clip(video, 0.0, 1.0)
    assert kept.clip(video, 0.0, 1.0) == first
    # Also by the next server.
    assert Previews(tmp_path / "cache").clip(video, 0.0, 1.0) == first
    assert len(jobs) == 1
    kept.clip(video, 0.0, 1.5)
    os.utime(video, (1, 1))
    kept.clip(video, 0.0, 1.0)
    assert len(jobs) == 3
    direct = film(tmp_path / "b.mp4", "libx264")
    for start in (0.0, 1.0):
        assert not kept.clip(direct, start, 2.0).is_preview
    assert len(jobs) == 4


def test_a_preview_is_short(tmp_path, monkeypatch):
    monkeypatch.setattr(previews, "LONGEST", 1.0)
    clip = Previews(tmp_path / "cache").clip(film(tmp_path / "a.avi"), 0.5, 3.5)
    assert read(clip.path)[0][-1] == pytest.approx(0.96, abs=0.05)


def test_the_folder_is_bounded_and_the_longest_unused_goes(tmp_path):
    video = film(tmp_path / "a.avi")
    size = Previews(tmp_path / "cache").clip(video, 0.0, 1.0).path.stat().st_size
    kept = Previews(tmp_path / "cache", most_bytes=round(size * 2.5))
    clips = [kept.clip(video, 0.0, 1.0).path, kept.clip(video, 1.0, 2.0).path]
    os.utime(clips[0], (5, 5))
    os.utime(clips[1], (10, 10))
    # Asked for again, the first is the newest.
    assert kept.clip(video, 0.0, 1.0).path == clips[0]
    clips.append(kept.clip(video, 2.0, 3.0).path)
    assert [x.exists() for x in clips] == [True, False, True]
    # One that is larger than all the room is still shown.
    tiny = Previews(tmp_path / "cache", most_bytes=1)
    last = tiny.clip(video, 0.0, 3.0).path
    assert list((tmp_path / "cache").iterdir()) == [last]


def test_the_folder_is_private_and_cleaned(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache_folder() == tmp_path / "vop_jax" / "previews"
    folder = Previews().folder
    assert folder.stat().st_mode & 0o077 == 0
    (folder / "x.1.partial").touch()
    Previews()
    assert not list(folder.iterdir())
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="set XDG_CACHE_HOME"):
        Previews(tmp_path / "file" / "cache")


@pytest.mark.parametrize("content", [b"", b"no video", b"\0\0\0\x18ftypmp42" * 9])
def test_what_is_no_video_says_so(tmp_path, content):
    video = tmp_path / "a.mp4"
    video.write_bytes(content)
    kept = Previews(tmp_path / "cache")
    with pytest.raises(PreviewError, match="is not a readable video"):
        kept.clip(video, 0.0, 1.0)
    with pytest.raises(PreviewError, match="cannot be read"):
        kept.clip(tmp_path / "none.mp4", 0.0, 1.0)
    with pytest.raises(PreviewError, match="is a folder"):
        kept.clip(tmp_path, 0.0, 1.0)
    assert not list(kept.folder.iterdir())


def test_damage_in_the_middle_is_passed_over(tmp_path, monkeypatch):
    video = write(tmp_path / "a.mkv", count=100)
    content = bytearray(video.read_bytes())
    middle = len(content) // 2
    noise = np.random.default_rng(0).integers(0, 256, 3000, np.uint8)
    content[middle : middle + 3000] = noise.tobytes()
    video.write_bytes(content)
    times, _ = made(tmp_path, video, 0.0, 4.0)
    assert len(times) > 80
    assert times[-1] > 3.8
    # Not for ever.
    monkeypatch.setattr(preview_job, "_MOST_DAMAGED", 0)
    outcome = do_job(PreviewJob(str(video), str(tmp_path / "other.mp4"), 0.0, 4.0))
    assert outcome["status"] == "corrupt"


@pytest.mark.parametrize("name", ["a.mkv", "a.ts", "a.avi"])
def test_a_stretch_is_found_without_decoding_all_before_it(tmp_path, monkeypatch, name):
    video = film(tmp_path / name, "mpeg4", seconds=60, switch=50.5)
    decoded = []
    every = preview_job._decoded

    def counted(*arguments):
        for frame in every(*arguments):
            decoded.append(frame.pts)
            yield frame

    monkeypatch.setattr(preview_job, "_decoded", counted)
    times, frames = made(tmp_path, video, 50.0, 51.0)
    assert [is_red(x) for x in frames] == [x > 0.49 for x in times]
    # A second, and up to ten before it, of sixty.
    assert len(decoded) < 300


def test_one_that_takes_too_long_is_ended(tmp_path):
    kept = Previews(tmp_path / "cache", seconds=0.05)
    with pytest.raises(PreviewError, match=r"takes more than 0.05 seconds"):
        kept.clip(film(tmp_path / "a.avi"), 0.0, 1.0)
    assert not list(kept.folder.iterdir())


def test_a_decoder_that_crashes_harms_its_process_alone(tmp_path, monkeypatch):
    monkeypatch.setattr(previews, "_CODE", "import os; os.kill(os.getpid(), 11)")
    kept = Previews(tmp_path / "cache")
    with pytest.raises(PreviewError, match="made its decoder crash"):
        kept.clip(film(tmp_path / "a.avi"), 0.0, 1.0)


def test_closing_ends_what_runs(tmp_path, monkeypatch):
    monkeypatch.setattr(previews, "_CODE", "import time; time.sleep(100)")
    kept = Previews(tmp_path / "cache", seconds=60)
    ended = []

    def ask():
        with pytest.raises(PreviewError):
            kept.clip(video, 0.0, 1.0)
        ended.append(True)

    video = film(tmp_path / "a.avi")
    thread = threading.Thread(target=ask)
    thread.start()
    until = time.monotonic() + 20
    while not kept._running and time.monotonic() < until:
        time.sleep(0.01)
    kept.close()
    thread.join(10)
    assert ended
    with pytest.raises(PreviewError, match="is ending"):
        kept.clip(video, 0.0, 2.0)


def test_a_full_disk_is_one_line(tmp_path):
    """The process may write no file larger than a few bytes."""
    video = film(tmp_path / "a.avi")
    job = PreviewJob(str(video), str(tmp_path / "preview.mp4"), 0.0, 2.0)
    program = (
        "import resource, signal, sys; signal.signal(signal.SIGXFSZ, signal.SIG_IGN); "
        "resource.setrlimit(resource.RLIMIT_FSIZE, (100, 100)); "
        "from vop_jax.serving.preview_job import main; main()"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        input=json.dumps(job).encode(),
        stdout=subprocess.PIPE,
        check=True,
    )
    assert "error" in json.loads(done.stdout)
