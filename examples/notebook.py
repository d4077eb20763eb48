# ---
# jupyter:
#   jupytext:
#     text_representation:
#       extension: .py
#       format_name: percent
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # From videos to metrics
#
# A notebook kept as text: open it with Jupytext, or run it with
# `python examples/notebook.py`. It writes a few small videos, embeds them with the
# demo's CLIP, searches them and scores the result.

# %%
import csv
import subprocess
import sys
from pathlib import Path

import numpy as np

import vop_jax

# %% [markdown]
# ## Videos and captions
#
# The tiny data set that comes with the project; any folder of videos and a CSV with the
# columns `video` and `caption` work in the same way.

# %%
subprocess.run(
    [
        sys.executable,
        "-m",
        "data_pipelines.dummy",
        "--dataset=custom",
        "--output=clips",
    ],
    check=True,
)
with next(Path("clips/annotations").glob("*.csv")).open(newline="") as file:
    rows = list(csv.DictReader(file))
# One caption of each video.
caption_of = {row["video"]: row["caption"] for row in rows}
names = list(caption_of)
paths = [Path("clips/videos") / name for name in names]
print(len(paths), "videos")

# %% [markdown]
# ## Embeddings
#
# `"demo"` is the CLIP that comes with the project. A run's folder, a converted
# checkpoint or a name on the Hugging Face hub is loaded in the same way.

# %%
model = vop_jax.load("demo")
videos = model.encode_videos(paths)
texts = model.encode_texts(list(caption_of.values()))
print("videos", videos.shape, "texts", texts.shape)

# %% [markdown]
# ## Search

# %%
query = "a large yellow triangle"
similarity = videos @ model.encode_texts([query])[0]
for place in np.argsort(-similarity)[:3]:
    print(f"{similarity[place]:.3f}  {caption_of[names[place]]}")

# %% [markdown]
# ## Metrics
#
# Text *i* belongs to video *i*. R@1 is the percentage of captions whose video comes
# first; MdR is the median rank of the right video.

# %%
metrics = vop_jax.retrieval_metrics(texts @ videos.T)
for way in ("t2v", "v2t"):
    print(way, {name: round(value, 1) for name, value in metrics[way].items()})
