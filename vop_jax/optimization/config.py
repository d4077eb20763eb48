"""The configuration of an update: optimizer, negatives of the loss, bad steps."""

import dataclasses
from typing import Annotated

from data_pipelines.console.ranges import Range

# The keys of `losses.LOSSES`, which cannot be imported without JAX.
LOSS_NAMES = ("auto", "softmax", "sigmoid", "alignment")
# Mode of `mask_equal` -> the columns of the batch's `identity` (see `TrainFeed`) of
# which one must be equal for a candidate not to count as a negative.
MASKS: dict[str, tuple[str, ...]] = {
    "none": (),
    "videos": ("video",),
    "videos_and_captions": ("video", "text"),
}
# `stop` ends the run; `skip` skips the update, a limited number of times.
NAN_POLICIES = ("stop", "skip")
# What multiplies or bounds a float32, and the decay rates of averages.
_FACTORS, _RATES = Range(0, 1_000_000), Range(0, 1, below=True)


@dataclasses.dataclass(frozen=True)
class AlignmentConfig:
    """The terms that `config.loss=alignment` adds to the softmax loss.

    Attributes:
        image_weight: of the loss of frames against the captions of frames.
        distillation_weight: of the divergence of the videos' similarities from those of
            their frames.
        detach_teacher: whether that divergence leaves the frames' similarities alone
            (the released code of DiscoVLA trains both sides).
    """

    image_weight: Annotated[float, _FACTORS] = 0.3
    distillation_weight: Annotated[float, _FACTORS] = 1.0
    detach_teacher: bool = False


@dataclasses.dataclass(frozen=True)
class OptimizerConfig:
    """AdamW and its learning-rate schedule.

    Attributes:
        learning_rate: the peak of the schedule.
        warmup: fraction of all steps in which the rate rises from zero.
        weight_decay: AdamW's decoupled weight decay, on matrices and prompts only.
        beta1: decay rate of the first moment.
        beta2: decay rate of the second moment.
        clip_norm: largest global norm of the gradient; 0 means no clipping.
        context_rate: factor on the learning rate of the context module.
    """

    learning_rate: Annotated[float, Range(0, 1e38, above=True)] = 1e-3
    warmup: Annotated[float, Range(0, 1)] = 0.1
    weight_decay: Annotated[float, _FACTORS] = 0.2
    beta1: Annotated[float, _RATES] = 0.9
    beta2: Annotated[float, _RATES] = 0.98
    clip_norm: Annotated[float, _FACTORS] = 1.0
    context_rate: Annotated[float, _FACTORS] = 1.0
