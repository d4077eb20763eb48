"""A headless Chromium, driven by Playwright, and films of several codecs to show it."""

import contextlib
import shutil

import av
import numpy as np
from playwright.sync_api import sync_playwright

from data_pipelines.datasets.demo.clip import render_clip
from data_pipelines.datasets.demo.world import sample_clips

# Nothing that asks elsewhere, and no sandbox, which root has none of.
ARGUMENTS = (
    *("--no-sandbox", "--disable-gpu", "--disable-background-networking"),
    *("--disable-component-update", "--disable-sync", "--no-first-run"),
)
MISSING = "chromium is not installed (Debian and Ubuntu: apt install chromium)"
PHONE = {"width": 390, "height": 844}
# Name of a film, its codec, and its width and height.
FILMS = (
    ("circles/h264.mp4", "libx264", 192),
    ("circles/mpeg4.avi", "mpeg4", 160),
    ("squares/mpeg2.ts", "mpeg2video", 128),
    ("squares/hevc.mkv", "libx265", 640),
    ("vp9.webm", "libvpx-vp9", 176),
)
SECONDS = 4


def chromium():
    """The path of the browser, or None."""
    names = ("chromium", "chromium-browser", "google-chrome")
    return next((path for name in names if (path := shutil.which(name))), None)


@contextlib.contextmanager
def browsing():
    """A browser, which ends with the block."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=chromium(), args=[*ARGUMENTS]
        )
        try:
            yield browser
        finally:
            browser.close()


def write_films(folder, films=FILMS):
    """Clips of the demo, a codec each, slow enough to watch."""
    clips = sample_clips()["test"]
    apart = len(clips) // len(films)
    for (name, codec, size), clip in zip(films, clips[::apart], strict=False):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        write_film(path, codec, render_clip(clip, size))


def write_film(path, codec, frames, rate=25, seconds=SECONDS):
    """Frames, each of which is shown as long, in so many seconds."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=rate)
        stream.height, stream.width = frames.shape[1:3]
        stream.pix_fmt = "yuv420p"
        if codec == "libx265":
            stream.options = {"x265-params": "log-level=none", "preset": "ultrafast"}
        if codec == "libvpx-vp9":
            stream.options = {"deadline": "realtime", "cpu-used": "8"}
        for at in np.arange(seconds * rate) * len(frames) // (seconds * rate):
            picture = av.VideoFrame.from_ndarray(frames[at], "rgb24")
            container.mux(stream.encode(picture))
        container.mux(stream.encode(None))
