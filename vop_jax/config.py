"""The configuration as it comes from the command line, checked and given types."""

import dataclasses
import json
import typing
from pathlib import Path
from typing import Any, TypeVar

from data_pipelines.augmentation import Augmentation
from data_pipelines.datasets import find_dataset
from data_pipelines.errors import UserError
from vop_jax.adapters import PLACES
from vop_jax.context import CMMS
from vop_jax.demo import BACKBONE
from vop_jax.methods import Method, find_method
from vop_jax.metrics import TIES
from vop_jax.nan_policy import NAN_POLICIES
from vop_jax.optimizer import OptimizerConfig
from vop_jax.presets import find_preset
from vop_jax.profiling import parse_profile_steps
from vop_jax.prompts import ROLES, PromptConfig
from vop_jax.remat import POLICIES
from vop_jax.sharding import MeshConfig
from vop_jax.sizes import SIZES
from vop_jax.text_layout import TEXT_LAYOUTS
from vop_jax.towers import ATTENTIONS, ComputeConfig

# What may differ when a run goes on: it changes how fast the same is reached, and what
# is kept of it.
FREE_FIELDS = (
    *("mesh.data", "mesh.fsdp", "data_dir", "log_every", "keep_checkpoints"),
    *("step_timeout", "profile_steps", "evaluation_batch_size", "memory_gb"),
    *("micro_batch", "loss_chunk"),
    *("compute.scan", "compute.remat", "compute.attention"),
)
SHORT_FORM = ("method", "dataset", "backbone")
T = TypeVar("T")


@dataclasses.dataclass(frozen=True)
class RunConfig:
    """A run's configuration.

    Attributes:
        method: a row of the method table: what is prompted and what is trained.
        dataset: a row of the table of data sets.
        backbone: a Hugging Face CLIP folder, or `demo` for the embedded one.
        data_dir: where prepared data sets are.
        seed: of the prompts' initial values and of the data's order.
        epochs: number of passes.
        batch_size: videos of a step, over all devices.
        micro_batch: videos of a pass, over all devices; the gradient is that of the
            whole batch all the same. 0 takes the batch in one pass.
        loss_chunk: candidates of the loss that are scored at a time; 0 scores all.
        group_size: adjacent videos that always share a batch (the demo's twins).
        epoch_of: what an epoch goes through once: `videos`, or `pairs` of a video and
            a caption.
        holdout: training videos, at most a tenth of them, that validation is made of
            where the data set has none; the test split is never looked at for that.
        train_on_holdout: whether they are trained on as well.
        augmentation: how training frames are varied.
        memory_gb: a split whose frames take more stays on disk and is read from there.
        num_frames: F.
        renormalize_video: whether the mean over frames is scaled to length 1; the
            authors' model does not.
        ties: what equal similarities do to a rank, see `vop_jax.metrics`.
        prompts: how much of what is added where; the method's own numbers unless
            changed.
        optimizer: AdamW's numbers.
        compute: how the towers compute.
        mesh: how the devices are arranged.
        log_every: steps between two lines of metrics.
        save_every: steps between two checkpoints, each with a validation.
        keep_checkpoints: how many besides the best on the validation split.
        nan_policy: what a step does whose loss or gradient is not finite: `stop` ends
            the run, `skip` leaves parameters and moments as they were and goes on.
        nan_skips: how many steps of a run may be left out so before it is ended.
        step_timeout: seconds after which a run without a finished step is ended, the
            first compilation and a validation included; 0 waits for ever.
        profile_steps: `first:last`, steps that are traced for TensorBoard, or empty.
        evaluation_batch_size: videos of an evaluation step.
    """

    method: str
    dataset: str
    backbone: str
    data_dir: str
    seed: int
    epochs: int
    batch_size: int
    micro_batch: int
    loss_chunk: int
    group_size: int
    epoch_of: str
    holdout: int
    train_on_holdout: bool
    augmentation: Augmentation
    memory_gb: float
    num_frames: int
    renormalize_video: bool
    ties: str
    prompts: PromptConfig
    optimizer: OptimizerConfig
    compute: ComputeConfig
    mesh: MeshConfig
    log_every: int
    save_every: int
    keep_checkpoints: int
    nan_policy: str
    nan_skips: int
    step_timeout: float
    profile_steps: str
    evaluation_batch_size: int

    @property
    def row(self) -> Method:
        """The method's row of the table."""
        return find_method(self.method)

    @property
    def backbone_folder(self) -> Path:
        """The folder of the backbone.

        Raises:
            UserError: none is named.
        """
        if not self.backbone:
            raise UserError(
                f"{self.dataset} needs a CLIP: name its folder, "
                f"--config=configs/vop.py:dataset={self.dataset},backbone=FOLDER"
            )
        return BACKBONE if self.backbone == "demo" else Path(self.backbone)

    def as_json(self) -> dict[str, Any]:
        """The configuration as JSON values."""
        return dataclasses.asdict(self)


def default_values(
    method: str = "vop_fc", dataset: str = "demo", backbone: str = ""
) -> dict[str, Any]:
    """The configuration of a method on a data set as nested values, to be changed.

    Args:
        method: a row of the method table.
        dataset: a row of the presets.
        backbone: a folder, the name of a known size (to plan with, there are no
            weights), or empty for the data set's own.

    Raises:
        UserError: there is no such method or data set.
    """
    preset, row = find_preset(dataset), find_method(method)
    known = SIZES.get(backbone)
    named = known.vision.layers if known else _vision_layers(backbone)
    layers = named or preset.vision_layers
    prompts = row.prompt_config(layers, preset.num_frames)
    values = {
        "method": method,
        "dataset": dataset,
        "backbone": backbone or preset.backbone,
        "data_dir": "data",
        "seed": 0,
        "train_on_holdout": False,
        "augmentation": dataclasses.asdict(Augmentation()),
        "memory_gb": 32.0,
        "renormalize_video": False,
        "ties": "mean",
        "prompts": dataclasses.asdict(prompts) | preset.prompts,
        "optimizer": dataclasses.asdict(OptimizerConfig())
        | preset.optimizer
        | preset.method_optimizer.get(method, {}),
        "compute": dataclasses.asdict(ComputeConfig()) | preset.compute,
        "mesh": dataclasses.asdict(MeshConfig()),
        "keep_checkpoints": 2,
        "nan_policy": "stop",
        "nan_skips": 10,
        "step_timeout": 1800.0,
        "profile_steps": "",
        "micro_batch": 0,
        "loss_chunk": 0,
    }
    # The frames are said once, outside of the prompts.
    del values["prompts"]["num_frames"]
    same = [field.name for field in dataclasses.fields(RunConfig)]
    return values | {name: getattr(preset, name) for name in same if name not in values}


def _vision_layers(backbone: str) -> int:
    """Layers of a backbone folder's vision tower; 0 where that cannot be told yet."""
    try:
        values = json.loads((Path(backbone) / "config.json").read_text())
        return int(values["vision_config"].get("num_hidden_layers", 0))
    # Whoever loads it says what is wrong with it.
    except (OSError, ValueError, TypeError, KeyError, AttributeError):
        return 0


def parse_short_form(text: str) -> dict[str, str]:
    """`key=value,...` behind the configuration's path.

    Raises:
        UserError: not of this form, or another key.
    """
    keys = {}
    for part in filter(None, text.split(",")):
        key, equals, value = part.partition("=")
        if not equals or key not in SHORT_FORM:
            raise UserError(
                f"{part!r} is not key=value with a key of {', '.join(SHORT_FORM)}; "
                "any other field is set by --config.FIELD=VALUE"
            )
        keys[key] = value
    return keys


def check_config(values: dict[str, Any]) -> RunConfig:
    """Checks the configuration's values.

    Args:
        values: nested, as from `ConfigDict.to_dict()`.

    Raises:
        UserError: a field missing, unknown, of a wrong type or out of its range.
    """
    prompts = values.get("prompts", {}) | {"num_frames": values.get("num_frames")}
    config = _fill(RunConfig, values | {"prompts": prompts}, "config")
    find_method(config.method)
    find_dataset(config.dataset)
    for name in ("epochs", "batch_size", "group_size", "num_frames", "log_every"):
        _require(getattr(config, name) >= 1, f"config.{name} must be at least 1")
    _require(config.holdout >= 1, "config.holdout must be at least 1")
    _require(config.memory_gb >= 0, "config.memory_gb must not be negative")
    _require(
        0 < config.augmentation.crop <= 1,
        "config.augmentation.crop is a share of the area, above 0 and at most 1",
    )
    for name in ("save_every", "keep_checkpoints", "evaluation_batch_size"):
        _require(getattr(config, name) >= 1, f"config.{name} must be at least 1")
    _require(
        config.nan_policy in NAN_POLICIES,
        f"config.nan_policy must be one of {', '.join(NAN_POLICIES)}",
    )
    for name in ("nan_skips", "step_timeout"):
        _require(getattr(config, name) >= 0, f"config.{name} must not be negative")
    parse_profile_steps(config.profile_steps)
    for name in ("micro_batch", "loss_chunk"):
        part = getattr(config, name)
        _require(
            part >= 0 and not (part and config.batch_size % part),
            f"config.{name} must divide config.batch_size ({config.batch_size}), or be "
            "0 for all at once",
        )
    _require(config.ties in TIES, f"config.ties must be one of {', '.join(TIES)}")
    _require(
        config.compute.dtype in ("float32", "bfloat16"),
        "config.compute.dtype must be float32 or bfloat16",
    )
    _require(
        config.compute.remat in POLICIES,
        f"config.compute.remat must be one of {', '.join(POLICIES)}",
    )
    _require(
        config.compute.attention in ATTENTIONS,
        f"config.compute.attention must be one of {', '.join(ATTENTIONS)}",
    )
    prompts = config.prompts
    for name in ("text", "video", "position", "context", "joint"):
        length = getattr(prompts, f"{name}_length")
        _require(length >= 0, f"config.prompts.{name}_length must not be negative")
    _require(prompts.first_layer >= 1, "config.prompts.first_layer counts from 1")
    _require(
        prompts.last_layer == 0 or prompts.last_layer >= prompts.first_layer,
        "config.prompts.last_layer must not be before first_layer (0: the last)",
    )
    for field, names in (
        ("cmm", CMMS),
        ("cmm_role", ROLES),
        ("adapter", ("", *PLACES)),
        ("text_layout", TEXT_LAYOUTS),
    ):
        _require(
            getattr(prompts, field) in names,
            f"config.prompts.{field} must be one of {', '.join(names)}",
        )
    _require(
        prompts.cmm_role == "prompts" or prompts.context_length <= 1,
        "config.prompts.cmm_role=update_cls adds one token to each class token; set "
        "config.prompts.context_length=1",
    )
    _require(
        prompts.text_layout == "prefix"
        or (prompts.first_layer == 1 and not prompts.last_layer),
        "config.prompts.text_layout=modelscope has prompts in every layer; leave "
        "config.prompts.first_layer at 1 and last_layer at 0",
    )
    _require(
        prompts.adapter_width >= 1, "config.prompts.adapter_width must be 1 or more"
    )
    optimizer = config.optimizer
    _require(
        optimizer.learning_rate > 0, "config.optimizer.learning_rate must be positive"
    )
    _require(
        0 <= optimizer.warmup <= 1, "config.optimizer.warmup is a share between 0 and 1"
    )
    return config


def _require(holds: bool, message: str) -> None:
    if not holds:
        raise UserError(message)


def _fill(kind: type[T], values: dict[str, Any], where: str) -> T:
    """A dataclass from a dictionary, strictly."""
    types = typing.get_type_hints(kind)
    unknown = sorted(set(values) - set(types))
    missing = sorted(set(types) - set(values))
    if unknown or missing:
        raise UserError(
            f"{where} has no field {', '.join(unknown)}"
            if unknown
            else f"{where} lacks the field {', '.join(missing)}"
        )
    filled = {}
    for name, wanted in types.items():
        value = values[name]
        if dataclasses.is_dataclass(wanted):
            value = _fill(typing.cast(type, wanted), value, f"{where}.{name}")
        elif wanted is float and type(value) is int:
            value = float(value)
        elif type(value) is not wanted:
            raise UserError(
                f"{where}.{name} is {value!r}; it must be of type {wanted.__name__}"
            )
        filled[name] = value
    return kind(**filled)
