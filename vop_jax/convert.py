"""Converts CLIP and VoP checkpoints.

    python -m vop_jax.convert --input=ViT-B-32.pt --output=clip-vit-b32
    python -m vop_jax.convert --input=runs/demo_vop_fc --output=clip-tuned
    python -m vop_jax.convert --input=clip-vit-b32 --output=back --to=openai

The input's format is told from its content: OpenAI's `.pt` (TorchScript or state dict),
Hugging Face CLIP folders, open_clip's ViT models, the authors' VoP on ModelScope, and
runs of this project. The output is a Hugging Face CLIP folder, with a
`tuned.safetensors` where anything was added to the CLIP; or OpenAI's or ModelScope's
file. No code in a file is ever run, and torch is not needed.
"""

from pathlib import Path

from data_pipelines.arguments import Parser
from data_pipelines.errors import command
from data_pipelines.terminal import quiet_libraries

TARGETS = ("huggingface", "openai", "modelscope")


@command
def main() -> int | None:
    """Parses the flags and converts."""
    parser = Parser("vop_jax.convert", __doc__)
    parser.add_argument("--input", type=Path, required=True, help="file or folder")
    parser.add_argument("--output", type=Path, required=True, help="a new folder")
    parser.add_argument("--to", default="huggingface", choices=TARGETS)
    parser.add_argument(
        "--activation",
        default="",
        choices=("quick_gelu", "gelu"),
        help="of both towers, where the input does not say it",
    )
    flags = parser.parse_args()
    quiet_libraries()
    # Imported late, so that a typing mistake is answered without a wait.
    from vop_jax.clip_export import convert

    convert(flags.input, flags.output, flags.to, flags.activation)


if __name__ == "__main__":
    main()
