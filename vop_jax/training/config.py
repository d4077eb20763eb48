"""A run's configuration: its fields, their defaults, and the checks on their values."""

import dataclasses
import typing
from pathlib import Path
from typing import Annotated, Any, TypeVar

from data_pipelines.catalog.table import find_dataset
from data_pipelines.console.errors import UserError
from data_pipelines.console.names import did_you_mean, shortened
from data_pipelines.console.ranges import SEEDS, Range, check_ranges
from data_pipelines.feeding.augmentation import Augmentation
from vop_jax.devices.config import MeshConfig
from vop_jax.model.clip.families import known_size
from vop_jax.model.clip.sizes import ClipSize
from vop_jax.model.compute import ATTENTIONS, DTYPES, REMATS, ComputeConfig
from vop_jax.model.methods import Method, find_method
from vop_jax.model.prompts.config import (
    ADDED_PROMPT_FIELDS,
    CMM_ROLES,
    CMMS,
    LATENTS,
    LORA_PARTS,
    PLACES,
    PromptConfig,
)
from vop_jax.model.prompts.text_layout import TEXT_LAYOUTS
from vop_jax.optimization.config import (
    LOSS_NAMES,
    MASKS,
    NAN_POLICIES,
    AlignmentConfig,
    OptimizerConfig,
)
from vop_jax.runtime.run_folder import RunFolder, flat_fields
from vop_jax.scoring.ties import TIES
from vop_jax.training.presets import EPOCHS, find_preset
from vop_jax.training.profiling import parse_profile_steps
from vop_jax.weights.config_file import load_size
from vop_jax.weights.locate import configured_folder, find_folder

# Fields that may change when a run is resumed; they affect speed, memory, logging and
# retention, never the result.
FREE_FIELDS = (
    *("mesh.data", "mesh.fsdp", "data_dir", "log_every", "keep_checkpoints"),
    *("step_timeout", "profile_steps", "evaluation_batch_size", "memory_gb"),
    *("micro_batch", "loss_chunk"),
    *("compute.scan", "compute.remat", "compute.attention"),
)
# Fields that the config.json of older runs lacks -> the value those runs had.
ADDED_FIELDS = {
    "mask_equal": "none",
    "loss": "auto",
    "frame_captions": "",
    **{f"alignment.{k}": v for k, v in vars(AlignmentConfig()).items()},
    **{f"prompts.{name}": value for name, value in ADDED_PROMPT_FIELDS.items()},
}
SHORT_FORM = ("method", "dataset", "backbone")
# The fields that take one of a fixed set of values.
CHOICES: dict[str, tuple[str, ...]] = {
    "epoch_of": ("videos", "pairs"),
    "loss": LOSS_NAMES,
    "mask_equal": tuple(MASKS),
    "ties": TIES,
    "nan_policy": NAN_POLICIES,
    "compute.dtype": DTYPES,
    "compute.remat": REMATS,
    "compute.attention": ATTENTIONS,
    "prompts.cmm": CMMS,
    "prompts.cmm_role": CMM_ROLES,
    "prompts.adapter": ("", *PLACES),
    "prompts.lora_parts": LORA_PARTS,
    "prompts.latent": LATENTS,
    "prompts.text_layout": TEXT_LAYOUTS,
}
T = TypeVar("T")
# Videos of a batch; steps, checkpoints or videos.
_VIDEOS, _COUNT = Range(1, 1_000_000), Range(1, 1_000_000_000)


@dataclasses.dataclass(frozen=True)
class RunConfig:
    """A run's configuration.

    Attributes:
        method: a row of the method table: what is prompted and what is trained.
        dataset: a row of the table of data sets.
        backbone: a Hugging Face CLIP folder, its name on the hub, a short name of
            `families.HUB_NAMES` (`vit_b32` for OpenAI's there), or an embedded one,
            `demo` or `demo_siglip`.
        data_dir: where prepared data sets are.
        seed: seed of the prompts' initial values and of the order of the data.
        epochs: number of epochs.
        batch_size: global batch size, videos per step over all devices.
        micro_batch: videos per forward and backward pass, over all devices (gradient
            caching); the gradient is still that of the complete batch. 0 takes the
            batch in one pass.
        loss_chunk: candidates per chunk of the loss; 0 takes all in one chunk.
        group_size: number of adjacent videos that are always in the same batch (the
            demo's twins).
        epoch_of: what an epoch visits once: `videos`, or `pairs` of a video and a
            caption.
        loss: `softmax`, the published recipe; `sigmoid`, for a backbone that was made
            with it (SigLIP), with its frozen scale and bias; or `auto`, which is
            `softmax` for every backbone, see `vop_jax.optimization.losses`; or
            `alignment`, which trains with captions of frames as well.
        alignment: the terms of that loss.
        frame_captions: where the captions of frames come from: a JSON file (video id ->
            a caption for each stored frame), `exact` where the data set knows them (the
            demo), or empty for none.
        mask_equal: which other members of a batch are not negatives of a pair: `none`
            of them (the published recipe), those of the same video (`videos`), or also
            those whose caption has the same token ids (`videos_and_captions`).
        holdout: number of training videos, at most a tenth of them, held out for
            validation if the data set has no validation split; model selection never
            uses the test split.
        train_on_holdout: whether the held-out videos are trained on as well.
        augmentation: random changes of the training frames.
        memory_gb: GiB; a split whose frames take more is read from disk as needed.
        num_frames: F, the number of frames of a video.
        renormalize_video: whether the mean over frames is scaled to length 1; the
            authors' model does not.
        ties: how equal similarities count in a rank, see `vop_jax.scoring.metrics`.
        prompts: what is added to CLIP and where; defaults to the method's own.
        optimizer: AdamW and its schedule.
        compute: how the towers compute.
        mesh: the arrangement of the devices.
        log_every: steps between two lines of metrics.
        save_every: steps between two checkpoints, each with a validation.
        keep_checkpoints: number of newest checkpoints to keep, in addition to the best
            on the validation split.
        nan_policy: what to do if a step's loss or gradient is not finite: `stop` ends
            the run, `skip` skips the update and continues.
        nan_skips: number of updates a run may skip before it is ended.
        step_timeout: seconds without a finished step after which a run is ended, the
            first compilation and a validation included; 0 means never.
        profile_steps: `FIRST:LAST`, steps to trace for TensorBoard, or empty.
        evaluation_batch_size: videos per evaluation step.
    """

    method: str
    dataset: str
    backbone: str
    data_dir: str
    seed: Annotated[int, SEEDS]
    epochs: Annotated[int, EPOCHS]
    batch_size: Annotated[int, _VIDEOS]
    micro_batch: Annotated[int, Range(0, _VIDEOS.most)]
    loss_chunk: Annotated[int, Range(0, _VIDEOS.most)]
    group_size: Annotated[int, _VIDEOS]
    epoch_of: str
    loss: str
    alignment: AlignmentConfig
    frame_captions: str
    mask_equal: str
    holdout: Annotated[int, _COUNT]
    train_on_holdout: bool
    augmentation: Augmentation
    memory_gb: Annotated[float, Range(0, 1_000_000)]
    num_frames: Annotated[int, Range(1, 4_096)]
    renormalize_video: bool
    ties: str
    prompts: PromptConfig
    optimizer: OptimizerConfig
    compute: ComputeConfig
    mesh: MeshConfig
    log_every: Annotated[int, _COUNT]
    save_every: Annotated[int, _COUNT]
    keep_checkpoints: Annotated[int, _COUNT]
    nan_policy: str
    nan_skips: Annotated[int, Range(0, _COUNT.most)]
    step_timeout: Annotated[float, Range(0, 10_000_000)]
    profile_steps: str
    evaluation_batch_size: Annotated[int, _VIDEOS]

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
                f"{self.dataset} needs a CLIP: pass its folder, "
                f"--config=configs/vop.py:dataset={self.dataset},backbone=FOLDER"
            )
        return configured_folder(self.backbone)

    def backbone_size(self) -> ClipSize:
        """The description of the backbone, by its name or from its folder.

        Raises:
            UserError: as `backbone_folder`, or the folder's files are damaged.
        """
        return known_size(self.backbone) or load_size(self.backbone_folder)

    def with_dtype(self, dtype: str) -> "RunConfig":
        """The same configuration in another compute dtype."""
        compute = dataclasses.replace(self.compute, dtype=dtype)
        return dataclasses.replace(self, compute=compute)

    def as_json(self) -> dict[str, Any]:
        """The configuration as JSON values."""
        return dataclasses.asdict(self)


def default_values(
    method: str = "vop_fc", dataset: str = "demo", backbone: str = ""
) -> dict[str, Any]:
    """The default configuration of a method on a data set, as nested values.

    Args:
        method: a row of the method table.
        dataset: a row of the presets.
        backbone: a folder, a name of `families.HUB_NAMES` or of the hub, or empty for
            the data set's default.

    Raises:
        UserError: there is no such method or data set, or no such backbone on the hub.
    """
    preset, row = find_preset(dataset), find_method(method)
    backbone = backbone or preset.backbone
    known = known_size(backbone)
    named = known.vision.layers if known else _vision_layers(backbone)
    layers = named or preset.vision_layers
    prompts = row.prompt_config(layers, preset.num_frames)
    values = {
        "method": method,
        "dataset": dataset,
        "backbone": backbone,
        "data_dir": "data",
        "seed": 0,
        "train_on_holdout": False,
        "augmentation": dataclasses.asdict(Augmentation()),
        "memory_gb": 32.0,
        "loss": row.loss or preset.loss,
        "alignment": dataclasses.asdict(AlignmentConfig()),
        "frame_captions": preset.frame_captions if row.loss else "",
        "renormalize_video": row.renormalize_video,
        "ties": "mean",
        "prompts": dataclasses.asdict(prompts)
        | preset.prompts
        | preset.method_prompts.get(method, {}),
        "optimizer": dataclasses.asdict(OptimizerConfig())
        | preset.optimizer
        | preset.method_optimizer.get(method, {}),
        "compute": dataclasses.asdict(ComputeConfig(dtype="auto")) | preset.compute,
        "mesh": dataclasses.asdict(MeshConfig()),
        "keep_checkpoints": 2,
        "nan_policy": "stop",
        "nan_skips": 10,
        "step_timeout": 1800.0,
        "profile_steps": "",
        "micro_batch": 0,
        "loss_chunk": 0,
    }
    # The number of frames is a field of the run, not of the prompts.
    del values["prompts"]["num_frames"]
    same = [field.name for field in dataclasses.fields(RunConfig)]
    return values | {name: getattr(preset, name) for name in same if name not in values}


def as_begun(config: RunConfig, folder: RunFolder) -> RunConfig:
    """The configuration, adapted to that of a run in the folder.

    A field that an older config.json lacks takes the value that older runs had, unless
    the user set it to another value than the default, which `RunFolder.check` refuses.
    A `compute.dtype` of `auto` is the one that the run began with.
    """
    if not folder.is_run():
        return config
    kept, preset = folder.read_config(), find_preset(config.dataset)
    if config.compute.dtype == "auto":
        dtype = kept.get("compute", {}).get("dtype", "float32")
        config = config.with_dtype(dtype)
    old = {
        name: value
        for name, value in ADDED_FIELDS.items()
        # Only these have a default that depends on the data set.
        if "." not in name
        and name not in kept
        and getattr(config, name) == getattr(preset, name)
    }
    return dataclasses.replace(config, **old)


def _vision_layers(backbone: str) -> int:
    """Layers of a backbone's vision tower; 0 if the backbone cannot be read."""
    folder = find_folder(backbone)
    try:
        return load_size(folder).vision.layers
    # Loading the weights reports what is wrong.
    except UserError:
        return 0


def parse_short_form(text: str) -> dict[str, str]:
    """Parses `key=value,...`, which follows the configuration file after a colon.

    Raises:
        UserError: it has another form, or an unknown key.
    """
    keys = {}
    for part in filter(None, text.split(",")):
        key, equals, value = part.partition("=")
        if not equals or key not in SHORT_FORM:
            written = f"{{}}={value or 'VALUE'}"
            raise UserError(
                f"{shortened(part)} is not key=value with a key of "
                f"{', '.join(SHORT_FORM)}; any other field is set by "
                f"--config.FIELD=VALUE{did_you_mean(key, SHORT_FORM, written)}"
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
    method = find_method(config.method)
    find_dataset(config.dataset)
    check_ranges(config, "config")
    _check_choices(config)
    config.prompts.check()
    method.check(config.method, config.prompts)
    config.mesh.check()
    parse_profile_steps(config.profile_steps)
    # Rules between fields.
    for name in ("micro_batch", "loss_chunk"):
        part = getattr(config, name)
        _require(
            not part or config.batch_size % part == 0,
            f"config.{name} must divide config.batch_size ({config.batch_size}), or be "
            "0 for all at once",
        )
    return config


def _check_choices(config: RunConfig) -> None:
    """Checks the fields that take one of a fixed set of values."""
    flat = flat_fields(dataclasses.asdict(config))
    for name, words in CHOICES.items():
        _require(
            flat[name] in words,
            f"config.{name} must be one of {', '.join(x or 'empty' for x in words)}"
            f"{did_you_mean(flat[name], words)}",
        )


def _require(holds: bool, message: str) -> None:
    if not holds:
        raise UserError(message)


def _fill(kind: type[T], values: dict[str, Any], where: str) -> T:
    """Makes a dataclass from a dictionary of exactly its fields and their types."""
    types = typing.get_type_hints(kind)
    unknown = sorted(set(values) - set(types))
    missing = sorted(set(types) - set(values))
    if unknown or missing:
        raise UserError(
            f"{where} has no field {', '.join(unknown)}"
            f"{did_you_mean(unknown[0], set(types) - set(values))}"
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
