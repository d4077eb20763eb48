"""The configuration as it comes from the command line, checked and given types."""

import dataclasses
import typing
from pathlib import Path
from typing import Any, TypeVar

from data_pipelines.datasets import find_dataset
from data_pipelines.errors import UserError
from vop_jax.adapters import PLACES
from vop_jax.context import CMMS
from vop_jax.demo import BACKBONE
from vop_jax.methods import Method, find_method
from vop_jax.metrics import TIES
from vop_jax.optimizer import OptimizerConfig
from vop_jax.presets import find_preset
from vop_jax.prompts import ROLES, PromptConfig
from vop_jax.remat import POLICIES
from vop_jax.sharding import MeshConfig
from vop_jax.sizes import SIZES
from vop_jax.text_layout import TEXT_LAYOUTS
from vop_jax.towers import ATTENTIONS, ComputeConfig

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
    evaluation_batch_size: int

    @property
    def row(self) -> Method:
        """The method's row of the table."""
        return find_method(self.method)

    @property
    def backbone_folder(self) -> Path:
        """The folder of the backbone."""
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
    layers = known.vision.layers if known else preset.vision_layers
    prompts = row.prompt_config(layers, preset.num_frames)
    values = {
        "method": method,
        "dataset": dataset,
        "backbone": backbone or preset.backbone,
        "data_dir": "data",
        "seed": 0,
        "renormalize_video": False,
        "ties": "mean",
        "prompts": dataclasses.asdict(prompts) | preset.prompts,
        "optimizer": dataclasses.asdict(OptimizerConfig())
        | preset.optimizer
        | preset.method_optimizer.get(method, {}),
        "compute": dataclasses.asdict(ComputeConfig()) | preset.compute,
        "mesh": dataclasses.asdict(MeshConfig()),
        "keep_checkpoints": 2,
        "micro_batch": 0,
        "loss_chunk": 0,
    }
    # The frames are said once, outside of the prompts.
    del values["prompts"]["num_frames"]
    same = [field.name for field in dataclasses.fields(RunConfig)]
    return values | {name: getattr(preset, name) for name in same if name not in values}


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
    for name in ("save_every", "keep_checkpoints", "evaluation_batch_size"):
        _require(getattr(config, name) >= 1, f"config.{name} must be at least 1")
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
