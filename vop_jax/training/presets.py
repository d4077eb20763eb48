"""Presets: the default settings of a run for each data set."""

import dataclasses
from typing import Any

from data_pipelines.console.names import pick
from data_pipelines.console.ranges import Range

EPOCHS = Range(1, 1_000_000)
# DiscoVLA's and TempMe's recipe, for a CLIP of any size.
_LORA = {"learning_rate": 6e-4, "weight_decay": 0.2}
# The learning rates of released methods, where a data set has none of its own.
_METHOD_OPTIMIZER = {
    "dgl_linear": {"learning_rate": 5e-3},
    "dgl_transformer": {"learning_rate": 2e-3},
    "mv_adapter": {"learning_rate": 5e-6},
    **dict.fromkeys(("ivfusion", "discovla", "tempme"), _LORA),
}
# For paragraphs, as MV-Adapter's released configurations have them.
_PARAGRAPHS = {"mv_adapter": {"adapter_words": 64}}


@dataclasses.dataclass(frozen=True)
class Preset:
    """The default settings for one data set.

    Attributes:
        backbone: a folder, `demo`, or a name on the hub.
        vision_layers: layers of the vision tower, used if the backbone is unknown.
        num_frames: F.
        epochs: number of epochs.
        batch_size: global batch size, videos per step.
        group_size: number of adjacent videos that are always in the same batch.
        epoch_of: `videos` or `pairs`.
        loss: a name of `losses.LOSSES`.
        frame_captions: where captions of frames come from, for a method whose loss
            needs them.
        mask_equal: a mode of `config.MASKS`.
        holdout: number of training videos held out for validation if the data set has
            no validation split.
        optimizer: fields of `OptimizerConfig` with another default.
        method_optimizer: the same, by method.
        prompts: fields of `PromptConfig` that differ from the method's.
        method_prompts: the same, by method.
        compute: fields of `ComputeConfig` with another default.
        log_every: steps between two lines of metrics.
        save_every: steps between two checkpoints.
        evaluation_batch_size: videos per evaluation step.
    """

    backbone: str = "vit_b32"
    vision_layers: int = 12
    num_frames: int = 12
    epochs: int = 5
    batch_size: int = 32
    group_size: int = 1
    epoch_of: str = "pairs"
    loss: str = "auto"
    frame_captions: str = ""
    mask_equal: str = "none"
    holdout: int = 500
    optimizer: dict[str, Any] = dataclasses.field(default_factory=dict)
    method_optimizer: dict[str, dict[str, Any]] = dataclasses.field(
        default_factory=lambda: dict(_METHOD_OPTIMIZER)
    )
    prompts: dict[str, Any] = dataclasses.field(default_factory=dict)
    method_prompts: dict[str, dict[str, Any]] = dataclasses.field(default_factory=dict)
    compute: dict[str, Any] = dataclasses.field(default_factory=dict)
    log_every: int = 20
    save_every: int = 500
    evaluation_batch_size: int = 64


_FASTER = _METHOD_OPTIMIZER | {"dgl_linear": {"learning_rate": 1e-2}}
PRESETS = {
    "demo": Preset(
        backbone="demo",
        vision_layers=4,
        num_frames=8,
        epochs=24,
        # Eight groups of a clip, its twin and their same-end variants.
        group_size=4,
        epoch_of="videos",
        frame_captions="exact",
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
            "mv_adapter": {"learning_rate": 1e-3},
        },
        prompts={
            "frame_position_std": 0.3,
            "context_forget_bias": 1.0,
            "context_fc_scale": 0.1,
        },
        # For a small model on a CPU unrolled layers save more time than compiling them
        # costs.
        compute={"scan": False},
        log_every=5,
        save_every=80,
    ),
    # A preset's default is the paper's setting: OpenAI's ViT-B/32, 12 frames, batches
    # of 32 pairs of a video and a caption, 5 epochs.
    "msrvtt_9k": Preset(save_every=1000),
    "msrvtt_7k": Preset(save_every=1000),
    "didemo": Preset(save_every=250, method_prompts=_PARAGRAPHS),
    "activitynet": Preset(
        save_every=250, method_optimizer=_FASTER, method_prompts=_PARAGRAPHS
    ),
    "lsmdc": Preset(save_every=1000, method_optimizer=_FASTER),
    "msvd": Preset(),
    "vatex": Preset(save_every=1000),
    # No published recipe to follow, and often many captions for few videos.
    "custom": Preset(mask_equal="videos_and_captions"),
}


def find_preset(dataset: str) -> Preset:
    """The preset of a data set.

    Raises:
        UserError: there is none.
    """
    return pick(PRESETS, dataset, "data set")
