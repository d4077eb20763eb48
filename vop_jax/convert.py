"""Converts CLIP and VoP checkpoints.

    python -m vop_jax.convert --input=ViT-B-32.pt --output=clip-vit-b32
    python -m vop_jax.convert --input=runs/demo_vop_fc --output=clip-tuned
    python -m vop_jax.convert --input=clip-vit-b32 --output=back --to=openai

The input's format is detected from its content: OpenAI's `.pt` (TorchScript or state
dict), Hugging Face folders of CLIP, MetaCLIP 2 and SigLIP, open_clip's ViT, SigLIP,
PE-Core and EVA02 models, PE-Core's `.pt`, big_vision's `.npz` of SigLIP, the authors'
VoP on ModelScope, and runs of this project. The output is a Hugging Face folder, with a
`tuned.safetensors` if anything was added to the model; or OpenAI's or ModelScope's
file. No code in a file is ever run, and torch is not needed.
"""

import argparse
import re

from data_pipelines.console.arguments import Parser, local_path
from data_pipelines.console.errors import command
from data_pipelines.console.terminal import quiet_libraries
from vop_jax.model.clip.families import HUB_NAMES
from vop_jax.weights.locate import EMBEDDED

TARGETS = ("huggingface", "openai", "modelscope")


def _heads(text: str) -> tuple[int, int]:
    """Two positive numbers."""
    found = re.fullmatch(r"([1-9]\d{0,3}),([1-9]\d{0,3})", text)
    if found is None:
        raise argparse.ArgumentTypeError(
            f"{text[:40]!r} is not two numbers such as 16,12"
        )
    return int(found[1]), int(found[2])


@command
def main() -> int | None:
    """Parses the flags and converts."""
    parser = Parser("vop_jax.convert", __doc__)
    parser.add_argument(
        "--input",
        type=local_path,
        required=True,
        help="file, folder, or the name of a model: "
        + ", ".join([*EMBEDDED, *HUB_NAMES]),
    )
    parser.add_argument("--output", type=local_path, required=True, help="a new folder")
    parser.add_argument(
        "--to", default="huggingface", choices=TARGETS, help="the output's format"
    )
    parser.add_argument(
        "--activation",
        default="",
        choices=("quick_gelu", "gelu", "gelu_tanh"),
        help="of both towers, if the input does not state it (default: the input's)",
    )
    parser.add_argument(
        "--heads",
        default=(0, 0),
        type=_heads,
        metavar="VISION,TEXT",
        help="attention heads of the two towers, if the input does not state them",
    )
    flags = parser.parse_args()
    quiet_libraries()
    # Imported late, so that a typing mistake is answered without a wait.
    from vop_jax.weights.clip_export import convert

    convert(flags.input, flags.output, flags.to, flags.activation, flags.heads)


if __name__ == "__main__":
    main()
