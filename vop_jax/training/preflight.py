"""Checks that a run can start, before anything expensive is done; cheapest first.

`check_fields` needs only the configuration, `check_devices` also the number of devices,
`check_backbone` also the backbone's description, `check_sizes` also the number of
videos. None of them reads weights or frames.
"""

import math
from collections.abc import Mapping

from data_pipelines.console.errors import UserError
from vop_jax.model.clip.param_shapes import param_shapes
from vop_jax.model.clip.sizes import TOWERS, ClipSize
from vop_jax.model.trained import lacking_parameters
from vop_jax.optimization.losses import LOSSES
from vop_jax.training.config import RunConfig
from vop_jax.training.profiling import parse_profile_steps


def check_fields(config: RunConfig) -> None:
    """Checks that batch size, groups and epochs are compatible, and loss and captions.

    Raises:
        UserError: they are not.
    """
    if config.epoch_of == "pairs" and config.group_size > 1:
        raise UserError(
            f"config.group_size is {config.group_size}, but groups are of videos, not "
            "of pairs; set config.group_size=1 or config.epoch_of=videos"
        )
    _check_frame_captions(config)
    _check_batch(config, config.group_size, f"groups of {config.group_size}")


def check_devices(config: RunConfig, devices: int) -> None:
    """Checks that batch and micro-batch divide over the devices.

    Raises:
        UserError: they do not.
    """
    _check_batch(config, devices, f"{devices} devices")
    if config.micro_batch % devices:
        right = [
            size
            for size in range(devices, config.batch_size + 1, devices)
            if config.batch_size % size == 0
        ]
        near = min(right, key=lambda size: abs(size - config.micro_batch))
        raise UserError(
            f"config.micro_batch is {config.micro_batch}, which does not divide over "
            f"{devices} devices; use {near}, or 0 for the whole batch at once"
        )


def check_backbone(config: RunConfig, size: ClipSize) -> None:
    """Checks that method, prompts and loss fit a backbone.

    Raises:
        UserError: they do not.
    """
    prompts = config.prompts
    for tower in TOWERS:
        layers = size.tower(tower).layers
        if prompts.first_layer > layers:
            raise UserError(
                f"config.prompts.first_layer is {prompts.first_layer}, but the {tower} "
                f"tower has {layers} layers"
            )
    layers = size.vision.layers
    if prompts.split_layer > layers or prompts.last_layer > layers:
        raise UserError(
            f"config.prompts.split_layer ({prompts.split_layer}) and last_layer "
            f"({prompts.last_layer}) must be at most the vision tower's {layers} layers"
        )
    # Its rows are counted from the EOT token, and padding is among its words.
    if size.full_captions and prompts.text_slots(size.context_length):
        raise UserError(
            f"config.prompts.text_layout is {prompts.text_layout}, but this backbone's "
            "text tower does not read the EOT token; use prefix"
        )
    if unfit := prompts.unfit(size):
        field, reason = unfit
        raise UserError(
            f"config.prompts.{field} is {getattr(prompts, field)}, but {reason}; use "
            "another method, such as lora"
        )
    lacking = lacking_parameters(size, config.row.trained)
    if lacking:
        raise UserError(
            f"config.method={config.method} trains {' and '.join(lacking)}, which this "
            "backbone does not have; use another method, such as partial"
        )
    for tower, name in (("vision", "fusion_layers"), ("text", "fusion_text_layers")):
        count, most = getattr(prompts, name), size.tower(tower).layers
        if count > most:
            raise UserError(
                f"config.prompts.{name} is {count}, but the {tower} tower has {most} "
                "layers"
            )
    missing = {*LOSSES[config.loss].parameters} - param_shapes(size).keys()
    if missing:
        raise UserError(
            f"config.loss={config.loss} needs {', '.join(sorted(missing))}, which this "
            "backbone does not have, as it was not made with that loss; use softmax"
        )


def check_sizes(
    config: RunConfig, devices: int, sizes: Mapping[str, int], held_out: int = 0
) -> None:
    """Checks that every split has enough videos.

    Args:
        config: of the run.
        devices: number of devices.
        sizes: split -> number of videos, for `train` of what `config.epoch_of` counts;
            a split without an entry is not checked.
        held_out: how many training videos are held out for validation.

    Raises:
        UserError: a split is empty or too small for a batch, or the steps to trace come
            after the last step.
    """
    for split, size in sizes.items():
        if split != "train" and not size:
            raise UserError(
                f"the {split} split of {config.dataset} is empty; prepare the data set "
                "with such videos"
            )
    if "train" not in sizes:
        return
    count, group = sizes["train"], config.group_size
    batch, available = config.batch_size, count // group * group
    if batch > available:
        has = f"the train split has {count} {config.epoch_of}"
        has += f" in groups of {group}" if group > 1 else ""
        if held_out and not config.train_on_holdout:
            has += f" besides the {held_out} that config.holdout holds out"
        unit = math.lcm(group, devices)
        most = available // unit * unit
        advice = (
            f"use at most {most}"
            if most
            else f"too few for {devices} devices and groups of {group}: use more videos"
        )
        raise UserError(f"config.batch_size is {batch}, but {has}; {advice}")
    steps = config.epochs * (available // batch)
    traced = parse_profile_steps(config.profile_steps)
    if traced and traced[1] > steps:
        raise UserError(
            f"config.profile_steps is {config.profile_steps}, but the run has {steps} "
            "steps; use steps up to that one"
        )


def _check_frame_captions(config: RunConfig) -> None:
    needed = "frame_ids" in LOSSES[config.loss].inputs
    if needed and not config.frame_captions:
        raise UserError(
            f"config.loss={config.loss} needs a caption of each frame; set "
            "config.frame_captions=FILE.json (video id -> a caption of each frame), or "
            "config.loss=softmax"
        )
    if config.frame_captions and not needed:
        raise UserError(
            f"config.frame_captions is {config.frame_captions}, which "
            f"config.loss={config.loss} does not read; use alignment, or leave the "
            "captions out"
        )
    if config.prompts.fusion_text_layers and not needed:
        raise UserError(
            f"config.prompts.fusion_text_layers is {config.prompts.fusion_text_layers}"
            f", which config.loss={config.loss} would not train; use 0, or alignment"
        )


def _check_batch(config: RunConfig, unit: int, what: str) -> None:
    batch = config.batch_size
    if batch % unit:
        below, above = batch // unit * unit, -(-batch // unit) * unit
        use = f"{below} or {above}" if below else str(above)
        raise UserError(
            f"config.batch_size is {batch}, which does not divide over {what}; use "
            f"{use}"
        )
