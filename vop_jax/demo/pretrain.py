"""Pre-trains a tiny backbone of the demo on captioned stills.

    python -m vop_jax.demo.pretrain --output=vop_jax/demo/backbone
    python -m vop_jax.demo.pretrain --backbone=demo_siglip --output=FOLDER

`demo` is a CLIP, `demo_siglip` a SigLIP: no class token, attention pooling, the sigmoid
loss, captions that are read at the last position without a causal mask.

It is trained on single frames only, so it represents what is where but not the order of
events, like the real CLIP. Contrastive training alone does not learn positions. Two
things make it learn them: groups of four stills that differ in one attribute, and
auxiliary classification heads for each attribute, which both towers share and whose
weight fades out during training.
"""

import json
import time

from data_pipelines.console.arguments import Parser, local_path
from data_pipelines.console.errors import command
from data_pipelines.console.ranges import SEEDS, Range, number
from data_pipelines.console.terminal import quiet_libraries, say, table
from vop_jax.weights.locate import EMBEDDED

# The accuracy that the finished backbone must reach, percent.
BARS = {
    "left/right": 97,
    "top/bottom": 97,
    "colour": 97,
    "size": 97,
    "cell": 95,
    "shape": 75,
    "R@1 of 256": 90,
}


@command
def main() -> int:
    """Trains, saves in float16, and measures the saved backbone."""
    parser = Parser("vop_jax.demo.pretrain", __doc__)
    parser.add_argument(
        "--backbone", choices=EMBEDDED, default="demo", help="which one to pre-train"
    )
    parser.add_argument(
        "--output",
        type=local_path,
        help="folder to write (default: where that backbone is read from)",
    )
    parser.add_argument(
        "--steps",
        type=number(int, Range(200, 1_000_000)),
        default=4000,
        help="training steps",
    )
    parser.add_argument(
        "--seed",
        type=number(int, SEEDS),
        default=0,
        help="seed of weights and data",
    )
    parser.add_argument(
        "--measure", action="store_true", help="only measure the backbone in --output"
    )
    flags = parser.parse_args()
    quiet_libraries()
    # Imported late, so that the help and a typing mistake are answered without a wait.
    from vop_jax.demo.small_clip import measure, train_and_save
    from vop_jax.model.clip.families import SIZES

    output = flags.output or EMBEDDED[flags.backbone]
    if not flags.measure:
        started, cpu = time.perf_counter(), time.process_time()
        train_and_save(output, SIZES[flags.backbone], flags.steps, flags.seed)
        took = time.perf_counter() - started
        say(f"trained in {took:.0f} s, {time.process_time() - cpu:.0f} CPU s")
    results = measure(output)
    table(
        "Zero-shot accuracy on new stills, percent",
        ["what", "accuracy", "bar"],
        [[k, f"{v:.1f}", str(BARS.get(k, ""))] for k, v in results.items()],
    )
    missed = [k for k, bar in BARS.items() if results[k] < bar]
    say(json.dumps(results))
    if missed:
        say(f"below the bar: {', '.join(missed)}")
    return 1 if missed else 0


if __name__ == "__main__":
    main()
