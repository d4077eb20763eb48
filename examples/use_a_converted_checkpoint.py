"""Converts a CLIP checkpoint and uses the result.

    python examples/use_a_converted_checkpoint.py --input=ViT-B-32.pt --to=openai

The input may be OpenAI's `.pt`, a Hugging Face CLIP folder, an open_clip ViT, or the
authors' released VoP. Without arguments it is the demo's CLIP.
"""

import argparse
import subprocess
import sys
from pathlib import Path

import numpy as np

import vop_jax
from vop_jax.weights.locate import BACKBONE

TEXTS = ["a red circle moves up", "a small green square"]


def convert(*arguments: str) -> None:
    """Runs the command; a failure ends the example."""
    command = [sys.executable, "-m", "vop_jax.convert", *arguments]
    done = subprocess.run(command, check=False)
    if done.returncode:
        sys.exit(done.returncode)


def main() -> None:
    """To a Hugging Face folder, from it, and if wanted to PyTorch's formats."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--input", default=str(BACKBONE), help="file or folder")
    parser.add_argument("--to", default="", help="openai or modelscope (default: none)")
    flags = parser.parse_args()
    folder = Path("converted")

    # A Hugging Face CLIP folder is what `load` and `--config=...backbone=` take.
    convert(f"--input={flags.input}", f"--output={folder}")
    if flags.to:
        convert(f"--input={folder}", "--output=converted_back", f"--to={flags.to}")

    model = vop_jax.load(folder)
    features = model.encode_texts(TEXTS)
    print(f"{model.backbone.size.embedding} values for each of {len(features)} texts")
    if flags.input == str(BACKBONE):
        np.testing.assert_array_equal(
            features, vop_jax.load("demo").encode_texts(TEXTS)
        )
        print("the features are those of the input")


if __name__ == "__main__":
    main()
