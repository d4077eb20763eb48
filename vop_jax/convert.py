"""Converts CLIP and VoP checkpoints.

    python -m vop_jax.convert --input=ViT-B-32.pt --output=clip-vit-b32
    python -m vop_jax.convert --input=runs/demo_vop_fc --output=clip-tuned
    python -m vop_jax.convert --input=clip-vit-b32 --output=back --to=openai
    python -m vop_jax.convert --input=runs/demo_vop_fc --output=exported --to=stablehlo

The input's format is detected from its content: OpenAI's `.pt` (TorchScript or state
dict), Hugging Face folders of CLIP, MetaCLIP 2 and SigLIP, open_clip's ViT, SigLIP,
PE-Core and EVA02 models, PE-Core's `.pt`, big_vision's `.npz` of SigLIP, the authors'
VoP on ModelScope, DGL's `.pth`, runs of this project and shared models. The output is
a Hugging Face folder, with a `tuned.safetensors` if anything was added to the model,
which examples/use_in_pytorch.py runs (`--to=torch` leaves LoRA in it); OpenAI's or
ModelScope's file; or both encoders as StableHLO, which JAX alone runs. No code in a
file is ever run, and torch is not needed.
"""

import argparse
import re

from data_pipelines.console.arguments import Parser, local_path
from data_pipelines.console.errors import UserError, command
from data_pipelines.console.ranges import Range, number
from data_pipelines.console.terminal import quiet_libraries
from vop_jax.model.clip.families import HUB_NAMES
from vop_jax.weights.locate import EMBEDDED

TARGETS = ("huggingface", "torch", "openai", "modelscope")
STABLEHLO = "stablehlo"
# Of a program: more at once takes more memory than an accelerator has.
_BATCH = Range(1, 65_536)


def _heads(text: str) -> tuple[int, int]:
    """Two positive numbers."""
    found = re.fullmatch(r"([1-9][0-9]{0,3}),([1-9][0-9]{0,3})", text)
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
        "--to",
        default="huggingface",
        choices=(*TARGETS, STABLEHLO),
        help="the output's format",
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
    for kind in ("videos", "texts"):
        parser.add_argument(
            f"--{kind}",
            type=number(int, _BATCH),
            help=f"how many {kind} a program of --to={STABLEHLO} takes (default: 8)",
        )
    flags = parser.parse_args()
    quiet_libraries()
    # What a target does not use is a misunderstanding.
    others = ("activation", "heads") if flags.to == STABLEHLO else ("videos", "texts")
    for name in others:
        if getattr(flags, name) != parser.get_default(name):
            raise UserError(
                f"--{name} has no effect with --to={flags.to}; leave it out"
            )
    if flags.to == STABLEHLO:
        from vop_jax.api import load
        from vop_jax.sharing.exporting import export

        counts = flags.videos or 8, flags.texts or 8
        export(load(flags.input), flags.output, *counts)
        return
    # Imported late, so that a typing mistake is answered without a wait.
    from vop_jax.weights.clip_export import convert

    convert(flags.input, flags.output, flags.to, flags.activation, flags.heads)


if __name__ == "__main__":
    main()
