"""What each data set is trained with unless the configuration says otherwise."""

import dataclasses
from typing import Any

from data_pipelines.errors import UserError


@dataclasses.dataclass(frozen=True)
class Preset:
    """The settings of one data set.

    Attributes:
        backbone: a folder, or `demo`; empty where it must be named.
        vision_layers: of the backbone, unless its folder is named.
        num_frames: F.
        epochs: number of passes.
        batch_size: videos of a step.
        group_size: adjacent videos that always share a batch.
        epoch_of: `videos` or `pairs`.
        holdout: training videos that validation is made of where none is published.
        optimizer: fields of `OptimizerConfig` that differ from its own.
        method_optimizer: the same, for one method.
        prompts: fields of `PromptConfig` that differ from the method's.
        compute: fields of `ComputeConfig` that differ from its own.
        log_every: steps between two lines of metrics.
        save_every: steps between two checkpoints.
        evaluation_batch_size: videos of an evaluation step.
    """

    backbone: str = ""
    vision_layers: int = 12
    num_frames: int = 12
    epochs: int = 5
    batch_size: int = 32
    group_size: int = 1
    epoch_of: str = "pairs"
    holdout: int = 500
    optimizer: dict[str, Any] = dataclasses.field(default_factory=dict)
    method_optimizer: dict[str, dict[str, Any]] = dataclasses.field(
        default_factory=dict
    )
    prompts: dict[str, Any] = dataclasses.field(default_factory=dict)
    compute: dict[str, Any] = dataclasses.field(default_factory=dict)
    log_every: int = 20
    save_every: int = 500
    evaluation_batch_size: int = 64


PRESETS = {
    "demo": Preset(
        backbone="demo",
        vision_layers=4,
        num_frames=8,
        epochs=24,
        # Eight groups of a clip, its twin and their same-end variants.
        group_size=4,
        epoch_of="videos",
        optimizer={
            "learning_rate": 1e-2,
            "weight_decay": 0.0,
            "context_rate": 0.5,
        },
        method_optimizer={
            "full": {"learning_rate": 3e-4},
            "partial": {"learning_rate": 1e-3},
            "bias": {"learning_rate": 3e-3},
            "proj": {"learning_rate": 1e-3},
        },
        prompts={
            "frame_position_std": 0.3,
            "context_forget_bias": 1.0,
            "context_fc_scale": 0.1,
        },
        # A small model on a CPU: specialised layers run faster than they compile.
        compute={"scan": False},
        log_every=5,
        save_every=80,
    ),
    # The paper's setting is what a preset is by default: 12 frames, batches of 32 pairs
    # of a video and a caption, 5 epochs. Paragraphs fill all 77 tokens in any case.
    "msrvtt_9k": Preset(save_every=1000),
    "msrvtt_7k": Preset(save_every=1000),
    "didemo": Preset(save_every=250),
    "activitynet": Preset(save_every=250),
    "lsmdc": Preset(save_every=1000),
    "msvd": Preset(),
    "vatex": Preset(save_every=1000),
    "custom": Preset(),
}


def find_preset(dataset: str) -> Preset:
    """The row of that data set.

    Raises:
        UserError: there is none.
    """
    if dataset not in PRESETS:
        raise UserError(f"dataset {dataset!r} is not one of {', '.join(PRESETS)}")
    return PRESETS[dataset]
