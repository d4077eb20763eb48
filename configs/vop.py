"""Prompt-tuning a frozen CLIP for text-video retrieval.

    python -m vop_jax.main --config=configs/vop.py
    python -m vop_jax.main --config=configs/vop.py:method=vop_f,dataset=demo
    python -m vop_jax.main --config=configs/vop.py --config.optimizer.learning_rate=3e-3

The short form takes `method`, `dataset` and `backbone`; everything else is a field.
"""

import dataclasses

from ml_collections import ConfigDict

from vop_jax.config import parse_short_form
from vop_jax.methods import find_method
from vop_jax.optimizer import OptimizerConfig
from vop_jax.presets import find_preset
from vop_jax.sharding import MeshConfig
from vop_jax.towers import ComputeConfig


def get_config(short_form: str = "") -> ConfigDict:
    """The configuration of a run; see `vop_jax.config` for what is checked."""
    keys = parse_short_form(short_form)
    dataset = keys.get("dataset", "demo")
    preset = find_preset(dataset)
    method = keys.get("method", "vop")
    backbone = keys.get("backbone", preset.backbone)
    row = find_method(method)

    config = ConfigDict()
    # A row of the method table: what is prompted and what is trained.
    config.method = method
    config.dataset = dataset
    # A Hugging Face CLIP folder, or `demo` for the embedded one.
    config.backbone = backbone
    # Where prepared data sets are.
    config.data_dir = "data"
    config.seed = 0
    config.epochs = preset.epochs
    # Videos of a step, over all devices.
    config.batch_size = preset.batch_size
    # Adjacent videos that always share a batch (the demo's twins).
    config.group_size = preset.group_size
    # What an epoch goes through once: `videos` or `pairs` of a video and a caption.
    config.epoch_of = preset.epoch_of
    config.num_frames = preset.num_frames
    # Whether the mean over frames is scaled to length 1; the authors' model does not.
    config.renormalize_video = False
    # What equal similarities do to a rank, see `vop_jax.metrics`.
    config.ties = "mean"
    # How many prompts go where; the method's own numbers unless changed here.
    config.prompts = ConfigDict(
        dataclasses.asdict(row.prompt_config(preset.vision_layers)) | preset.prompts
    )
    # The frames are said once, above.
    del config.prompts.num_frames
    config.optimizer = ConfigDict(
        dataclasses.asdict(OptimizerConfig())
        | preset.optimizer
        | preset.method_optimizer.get(method, {})
    )
    config.compute = ConfigDict(dataclasses.asdict(ComputeConfig()) | preset.compute)
    config.mesh = ConfigDict(dataclasses.asdict(MeshConfig()))
    # Steps between two lines of metrics, and between two checkpoints.
    config.log_every = preset.log_every
    config.save_every = preset.save_every
    # Checkpoints kept besides the best on the validation split.
    config.keep_checkpoints = 2
    config.evaluation_batch_size = preset.evaluation_batch_size
    return config.lock()
