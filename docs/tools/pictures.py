"""Makes the pictures of README.md and of the pages, in a headless browser.

    python docs/tools/pictures.py [--checkpoint=runs/demo_vop_fc]
        [--run=runs/demo_vop_fc]

Films of several scenes of the demo are written, indexed and searched in a temporary
folder; the page is photographed when it is empty, with results, while it plays, and on
a phone. With --run also the report of that run.
"""

import argparse
import contextlib
import io
import sys
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

ROOT = Path(__file__).parents[2]
IMAGES = ROOT / "docs" / "images"
LARGEST = 300_000
WINDOW = {"width": 1100, "height": 780}
QUERY = "a large red square"
# Pictures show no temporary folder.
RENAME = """() => {
  const line = document.querySelector("h1 + p");
  line.textContent = line.textContent.replace(/ in .*$/, " in /videos.");
}"""
# Films to index, scenes in each, and seconds of a scene.
FILMS, SCENES, SECONDS = 12, 4, 8

# The helpers of the browser tests, which test what is photographed here.
sys.path[:0] = [str(ROOT), str(ROOT / "tests" / "helpers")]


@contextlib.contextmanager
def searching(checkpoint: str, folder: Path) -> Iterator[str]:
    """The address of a server that searches films of the demo."""
    from browsers import write_film

    from data_pipelines.datasets.demo.clip import render_clip
    from data_pipelines.datasets.demo.world import sample_clips
    from vop_jax.api import load
    from vop_jax.index.video_index import VideoIndex
    from vop_jax.search import as_json
    from vop_jax.serving.previews import Previews
    from vop_jax.serving.server import SearchServer

    videos = folder / "videos"
    kinds = (("mp4", "libx264"), ("avi", "mpeg4"))
    clips = sample_clips()["test"]
    # Neighbours show the same objects.
    clips = clips[:: len(clips) // (FILMS * SCENES)]
    for i in range(FILMS):
        suffix, codec = kinds[i % 2]
        path = videos / str(2024 + i % 3) / f"film{i:02}.{suffix}"
        path.parent.mkdir(parents=True, exist_ok=True)
        shown = [render_clip(clip, 320) for clip in clips[i::FILMS][:SCENES]]
        write_film(path, codec, np.concatenate(shown), 10, SCENES * SECONDS)
    model = load(checkpoint)
    model.compile_texts()
    with VideoIndex.create(folder / "index") as index:
        index.update(model, videos, checkpoint)
    with (
        VideoIndex.open(folder / "index") as index,
        SearchServer(
            ("127.0.0.1", 0), index, model, as_json, previews=Previews(folder / "cache")
        ) as server,
    ):
        thread = threading.Thread(target=server.serve)
        thread.start()
        try:
            yield server.url
        finally:
            server.stop()
            thread.join()


def save(content: bytes, name: str) -> None:
    """Writes a photograph as a PNG of few colours."""
    picture = IMAGES / name
    with Image.open(io.BytesIO(content)) as image:
        image.convert("RGB").quantize(128).save(picture, optimize=True)
    size = picture.stat().st_size
    if size > LARGEST:
        raise SystemExit(f"{picture} has {size:,} bytes, more than {LARGEST:,}")
    print(f"{picture}: {size:,} bytes")


def settled(page: Any) -> None:
    """Waits until the cards have their pictures."""
    page.wait_for_selector(".card")
    page.wait_for_load_state("networkidle")


def photograph_search(browser: Any, url: str) -> None:
    """The search page: empty, with results, playing, on a phone."""
    from browsers import PHONE

    page = browser.new_page(viewport=WINDOW)
    page.goto(url)
    page.evaluate(RENAME)
    save(
        page.screenshot(clip={**WINDOW, "x": 0, "y": 0, "height": 320}),
        "search_empty.png",
    )
    page.fill("input[name=q]", QUERY)
    page.press("input[name=q]", "Enter")
    settled(page)
    save(page.screenshot(), "search.png")
    page.locator("a.open").first.click()
    page.wait_for_function(
        "() => document.querySelector('#player video')?.currentTime > 1"
    )
    save(page.screenshot(), "search_playing.png")
    page.close()
    phone = browser.new_page(
        viewport=PHONE, is_mobile=True, color_scheme="dark", device_scale_factor=1
    )
    phone.goto(url)
    phone.evaluate(RENAME)
    phone.fill("input[name=q]", QUERY)
    phone.press("input[name=q]", "Enter")
    settled(phone)
    save(phone.screenshot(), "search_phone.png")
    phone.close()


def main() -> None:
    """Parses the flags and makes the pictures."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--checkpoint", default="demo", help="the model that searches")
    parser.add_argument("--run", type=Path, help="a run's folder (default: no report)")
    flags = parser.parse_args()
    from browsers import MISSING, browsing, chromium

    if chromium() is None:
        raise SystemExit(MISSING)
    with browsing() as browser, tempfile.TemporaryDirectory() as name:
        if flags.run:
            page = browser.new_page(viewport=WINDOW)
            page.goto((flags.run / "report" / "index.html").resolve().as_uri())
            save(page.screenshot(), "report.png")
        with searching(flags.checkpoint, Path(name)) as url:
            photograph_search(browser, url)


if __name__ == "__main__":
    main()
