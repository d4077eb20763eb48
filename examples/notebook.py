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
# # Train on your own videos, search them, share the model
#
# A CLIP is tuned on a folder of videos and a CSV of captions, finds the moments of the
# videos that answer a sentence, and is written in the form in which it is shared.
#
# `examples/notebook.py` is this notebook as text, and runs as `python
# examples/notebook.py`; `examples/notebook.ipynb` is made from it and opens in a hosted
# notebook on a CPU, a GPU or a TPU.

# %% [markdown]
# ## Install
#
# Nothing is done where `vop_jax` is installed. Elsewhere the project is cloned and the
# set of packages for this runtime's processor installed. `REPOSITORY` is the address
# that you clone the project from. If the notebook has imported one of the packages
# before, it asks for a restart; then run it from the top.

# %%
import importlib.util
import os
import shutil
import subprocess
import sys
from pathlib import Path

REPOSITORY = "https://github.com/your-name/vop_jax"


def requirements():
    """The set of packages for this runtime: a TPU's, a GPU's or a CPU's."""
    names = ("COLAB_TPU_ADDR", "TPU_NAME", "TPU_ACCELERATOR_TYPE")
    chips = [*Path("/dev").glob("accel[0-9]*"), *Path("/dev/vfio").glob("[0-9]*")]
    if chips or any(os.environ.get(name) for name in names):
        return "requirements-tpu.txt"
    # Images for GPUs have the program where there is no GPU as well; then it fails.
    program = shutil.which("nvidia-smi")
    if program and not subprocess.run([program], capture_output=True).returncode:
        return "requirements-cuda.txt"
    return "requirements.txt"


def run(*command):
    """Runs a command and prints what it says as it comes."""
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as process:
        for line in process.stdout:
            print(line, end="", flush=True)
    if process.returncode:
        raise SystemExit(f"{' '.join(command)} has ended with {process.returncode}")


print("this runtime takes", requirements())
if importlib.util.find_spec("vop_jax") is None:
    if not Path("vop_jax_source").exists():
        run("git", "clone", "--quiet", "--depth=1", REPOSITORY, "vop_jax_source")
    install = (sys.executable, "-m", "pip", "install", "--quiet")
    run(*install, "-r", f"vop_jax_source/{requirements()}")
    run(*install, "--no-deps", "./vop_jax_source")

# %% [markdown]
# ## Videos and captions
#
# The tiny data set that comes with the project. For your own, set `VIDEOS` to your
# folder, `CAPTIONS` to a CSV with the columns `video` (a path below that folder) and
# `caption`, and `BACKBONE` to a CLIP such as `vit_b32`, which is fetched from the
# Hugging Face hub.

# %%
run(sys.executable, "-m", "data_pipelines.dummy", "--dataset=custom", "--output=clips")
VIDEOS, CAPTIONS = "clips/videos", "clips/annotations/videos.csv"
BACKBONE = "demo"

# %% [markdown]
# ## Training
#
# One command checks the CSV, decodes the videos, chooses the settings by how many there
# are and says why, trains, and scores the result beside the untuned CLIP. It runs in a
# process of its own, which gives the GPU or TPU back. Run again, it resumes or tells
# what there is.

# %%
run(
    *(sys.executable, "-m", "vop_jax.train", f"--videos={VIDEOS}"),
    *(f"--captions={CAPTIONS}", f"--backbone={BACKBONE}", "--output=runs/own"),
)

# %% [markdown]
# ## Search
#
# Videos are cut into moments of about eight seconds. The index is kept: `update` reads
# only what is new or has changed.

# %%
import vop_jax

model = vop_jax.load("runs/own")
with vop_jax.VideoIndex.create("runs/own/videos.index") as index:
    summary = index.update(model, VIDEOS, "runs/own")
    print(summary.moments, "moments of", summary.indexed, "new videos")
with vop_jax.VideoIndex.open("runs/own/videos.index") as index:
    (answer,) = index.search(model, ["a large yellow triangle"], top=3).answers
    for hit in answer.hits:
        print(f"{hit.similarity:.3f}  {hit.video}, {hit.start:.1f} to {hit.end:.1f} s")

# %% [markdown]
# ## Similarities and metrics
#
# Embeddings are arrays. Text *i* belongs to video *i* here; R@1 is the percentage of
# captions whose video comes first.

# %%
import csv

with Path(CAPTIONS).open(newline="") as file:
    caption_of = {row["video"]: row["caption"] for row in csv.DictReader(file)}
videos = model.encode_videos([Path(VIDEOS) / name for name in caption_of])
texts = model.encode_texts(list(caption_of.values()))
metrics = vop_jax.retrieval_metrics(texts @ videos.T)
for way in ("t2v", "v2t"):
    print(way, {name: round(value, 1) for name, value in metrics[way].items()})

# %% [markdown]
# ## Share
#
# What is shared is the tuned parameters, the name of their CLIP, and a model card. With
# a name in `PUSH_TO`, and after `hf auth login`, it is pushed to the Hugging Face hub,
# from where anybody loads it: `vop_jax.load("your-name/your-model")`.

# %%
PUSH_TO = ""

if not Path("shared").exists():
    model.save_pretrained("shared", license="apache-2.0")
for path in sorted(Path("shared").iterdir()):
    print(f"{path.stat().st_size:>9,} bytes  {path}")
if PUSH_TO:
    print(model.push_to_hub(PUSH_TO, license="apache-2.0"))
again = vop_jax.load("shared")
texts = ["a circle"]
same = (again.encode_texts(texts) == model.encode_texts(texts)).all()
print("the shared model gives the same embeddings:", same)
