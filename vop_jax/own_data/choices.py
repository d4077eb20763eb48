"""The settings of a run on your own videos, chosen by what there is, with reasons.

Every choice is a field of the configuration that `vop-jax train` chooses in your place;
a field that is set on the command line is left alone.
"""

import math
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from data_pipelines.console.counted import counted
from vop_jax.model.clip.sizes import ClipSize

# The default method, and why. Of the paper's it is the second best, 1.1 points of
# t2v R@1 behind vop_fc on MSR-VTT (43.5 and 44.6, Table 1).
METHOD = "vop_fp"
METHOD_REASON = (
    "it sees the order of frames, without a recurrent network, which wants many videos"
)
# The paper's batch and its halves: the largest is taken of which the training videos
# make so many.
BATCHES = (32, 16, 8, 4, 2)
BATCHES_A_PASS = 3
# About as many steps are made, within these numbers of epochs; the paper makes 5 epochs
# of many more steps, and after 40 a small set is known by heart.
STEPS, FEWEST_EPOCHS, MOST_EPOCHS = 200, 5, 40
# (least width of the vision tower, learning rate): the paper's rate is that of a wide
# tower; the demo's preset takes ten times as much for one of 64.
RATES = ((512, 1e-3), (0, 1e-2))
# A validation and a checkpoint after each such part of the run.
PARTS = 10
# With fewer training videos a run may well end worse than it began.
FEW = 16
# Activations that a step holds for the backward pass, in numbers for each patch and
# layer, over the width: the compiled step of vop_fp on ViT-B/32 takes 346 MB a video of
# 12 frames in float32.
SAVED = 16
# Part of the free memory that they may take.
MEMORY_SHARE = 0.5


class Facts(NamedTuple):
    """What the choices depend on.

    Attributes:
        videos: for training.
        pairs: of a training video and a caption.
        devices: number of devices.
        memory: free bytes of a device; 0 if it is not known.
        size: of the backbone.
    """

    videos: int
    pairs: int
    devices: int
    memory: int
    size: ClipSize


class Choice(NamedTuple):
    """A field, its value, why, and the flag that overrides it."""

    field: str
    value: Any
    reason: str
    flag: str

    @property
    def line(self) -> str:
        """The choice as a line for people."""
        name = self.field.rpartition(".")[2]
        value = f"{self.value:g}" if isinstance(self.value, float) else self.value
        return f"chose {name} {value}: {self.reason}; override with {self.flag}"


def choose(facts: Facts, values: Mapping[str, Any], given: set[str]) -> list[Choice]:
    """The choices, in the order in which they depend on each other.

    Args:
        facts: what they depend on.
        values: the flat fields of the configuration so far.
        given: the fields that are set already, which are not chosen.
    """
    values, chosen = dict(values), []
    for field, rule in _RULES.items():
        if field in given:
            continue
        value, reason = rule(facts, values)
        if value is None:
            continue
        values[field] = value
        chosen.append(
            Choice(field, value, reason, _FLAGS.get(field, f"--config.{field}"))
        )
    return chosen


def _batch_size(facts: Facts, values: Mapping[str, Any]) -> tuple[int, str]:
    del values
    fitting = [x for x in BATCHES if x * BATCHES_A_PASS <= facts.videos]
    batch = fitting[0] if fitting else BATCHES[-1]
    made = counted(facts.videos // batch, "batch", "batches")
    reason = f"{counted(facts.videos, 'training video')} make {made} of different ones"
    if batch == BATCHES[0]:
        reason += ", and the paper's are no larger"
    if batch % facts.devices:
        batch = math.ceil(batch / facts.devices) * facts.devices
        reason += f", rounded up to divide over {facts.devices} devices"
    return batch, reason


def _micro_batch(facts: Facts, values: Mapping[str, Any]) -> tuple[int | None, str]:
    """Parts of the batch that fit into memory; None if all of it does."""
    one = activation_bytes(facts.size, values["num_frames"])
    batch = part = values["batch_size"]
    room = int(facts.memory * MEMORY_SHARE * facts.devices)
    while room and part * one > room and part % 2 == 0:
        if part // 2 % facts.devices:
            break
        part //= 2
    if part == batch:
        return None, ""
    return part, (
        f"the activations of a video take {one / 2**20:,.0f} MiB, and "
        f"{facts.memory / 2**30:.1f} GiB are free; the gradient is that of the batch"
    )


def activation_bytes(size: ClipSize, num_frames: int) -> int:
    """Bytes that the backward pass needs of one video's forward pass, in float32."""
    tower = size.vision
    tokens = (size.image_size // size.patch_size) ** 2 + 1
    return 4 * SAVED * num_frames * tokens * tower.width * tower.layers


def _epochs(facts: Facts, values: Mapping[str, Any]) -> tuple[int, str]:
    units = facts.pairs if values["epoch_of"] == "pairs" else facts.videos
    each = max(1, units // values["batch_size"])
    epochs = min(max(math.ceil(STEPS / each), FEWEST_EPOCHS), MOST_EPOCHS)
    return epochs, (
        f"{counted(each, 'step')} an epoch, {counted(each * epochs, 'step')} in all"
    )


def _learning_rate(facts: Facts, values: Mapping[str, Any]) -> tuple[float | None, str]:
    width = facts.size.vision.width
    rate = next(rate for least, rate in RATES if width >= least)
    if rate == values["optimizer.learning_rate"]:
        return None, ""
    return rate, f"the backbone's vision tower is only {width} wide"


def _save_every(facts: Facts, values: Mapping[str, Any]) -> tuple[int, str]:
    units = facts.pairs if values["epoch_of"] == "pairs" else facts.videos
    steps = values["epochs"] * max(1, units // values["batch_size"])
    every = math.ceil(steps / PARTS)
    return every, "a validation and a checkpoint after each tenth of the run"


_Rule = Callable[[Facts, Mapping[str, Any]], tuple[Any, str]]
_RULES: dict[str, _Rule] = {
    "batch_size": _batch_size,
    "micro_batch": _micro_batch,
    "epochs": _epochs,
    "optimizer.learning_rate": _learning_rate,
    "save_every": _save_every,
}
FIELDS = tuple(_RULES)
_FLAGS = {"batch_size": "--batch_size", "epochs": "--epochs"}
