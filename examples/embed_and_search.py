"""Embeds a folder of videos, keeps the embeddings, and searches them.

    python examples/embed_and_search.py VIDEOS "a red circle" --model=runs/demo_vop_fc

`python -m vop_jax.search` does the same with an index that is updated, a page and a
server; this shows the few lines of Python behind it.
"""

import argparse
from pathlib import Path

import numpy as np

import vop_jax
from data_pipelines.console.errors import UserError, command
from vop_jax.index.listing import SUFFIXES


@command
def main() -> None:
    """Embeds what `embeddings.npz` lacks, then answers the query."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("videos", type=Path, help="folder of videos")
    parser.add_argument("query", help="what to look for")
    parser.add_argument(
        "--model", default="demo", help="a run or a CLIP (default: demo)"
    )
    parser.add_argument("--top", type=int, default=5, help="videos shown (default: 5)")
    flags = parser.parse_args()
    if not flags.videos.is_dir():
        raise UserError(f"{flags.videos} is not a folder; pass that of the videos")
    model = vop_jax.load(flags.model)

    store = Path("embeddings.npz")
    if store.exists() and str(np.load(store)["model"]) == model.fingerprint:
        names, features = np.load(store)["names"], np.load(store)["features"]
    else:
        paths = sorted(
            x for x in flags.videos.rglob("*") if x.suffix.lower() in SUFFIXES
        )
        # Files that give no frames are reported, not fatal.
        found = model.encode_videos(paths, on_error="skip")
        for failed in found.failed:
            print(f"left out: {failed.video} ({failed.status}: {failed.message})")
        names = np.array([str(paths[i]) for i in found.kept])
        features = found.features
        np.savez(store, names=names, features=features, model=model.fingerprint)
        print(f"embedded {len(names)} videos into {store}")

    similarity = features @ model.encode_texts([flags.query])[0]
    for rank, place in enumerate(np.argsort(-similarity)[: flags.top], start=1):
        print(f"{rank:>3}  {similarity[place]:.3f}  {names[place]}")


if __name__ == "__main__":
    main()
