"""A run's model, data, trained and frozen parameters, and folder."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from data_pipelines.catalog.table import find_dataset
from data_pipelines.console.terminal import say, table
from data_pipelines.feeding.feed import TrainFeed
from data_pipelines.feeding.frame_captions import (
    EXACT,
    read_frame_captions,
    with_frame_captions,
    without_frame_captions,
)
from data_pipelines.feeding.loading import (
    Data,
    find_prepared,
    load_data,
    render_missing,
)
from data_pipelines.feeding.split import held_out_count, split_sizes
from data_pipelines.preparing.prepare import prepared_path
from data_pipelines.text.buckets import BUCKETS
from vop_jax.devices.mesh import check_batch, make_mesh, put_tree
from vop_jax.model.clip.sizes import ClipSize
from vop_jax.model.compute import DTYPES
from vop_jax.model.dual_encoder import DualEncoder
from vop_jax.model.stored import store_frozen
from vop_jax.model.trained import count_trained, select, trained_leaves, trained_mask
from vop_jax.optimization.config import MASKS
from vop_jax.runtime.processes import from_main, main_first
from vop_jax.runtime.run_folder import RunFolder
from vop_jax.training.config import ADDED_FIELDS, FREE_FIELDS, RunConfig, as_begun
from vop_jax.training.preflight import (
    check_backbone,
    check_devices,
    check_fields,
    check_sizes,
)
from vop_jax.weights.backbone import Backbone, load_backbone
from vop_jax.weights.config_file import load_size
from vop_jax.weights.frame_recipes import resizing_of
from vop_jax.weights.locate import find_folder
from vop_jax.weights.tokenizer import load_tokenizer


def known_sizes(config: RunConfig, size: ClipSize) -> tuple[dict[str, int], int]:
    """The number of videos of each split, without rendering or reading frames.

    Args:
        config: of the run.
        size: of its backbone.

    Returns:
        The sizes of a run's splits, and how many training videos are held out for
        validation.

    Raises:
        UserError: nothing is prepared.
    """
    frames = config.num_frames, size.image_size, resizing_of(size)
    where = config.dataset, config.data_dir, *frames
    sizes, path = find_dataset(config.dataset).sizes_to_be(), prepared_path(*where)
    if not sizes:
        sizes = split_sizes(find_prepared(*where))
    elif path.is_dir():
        sizes = split_sizes(path)
    if "validation" in sizes or "train" not in sizes:
        return sizes, 0
    held = held_out_count(sizes["train"], config.holdout)
    left = sizes["train"] - (0 if config.train_on_holdout else held)
    return sizes | {"train": left, "validation": held}, held


def build_model(config: RunConfig, backbone: Backbone) -> DualEncoder:
    """The prompted model of a configuration.

    Raises:
        UserError: a method, prompts or a loss that do not fit the backbone.
    """
    size = backbone.size
    check_backbone(config, size)
    return DualEncoder(size, config.prompts, config.compute, config.renormalize_video)


def initial_variables(
    model: DualEncoder, backbone: Backbone, seed: int
) -> dict[str, Any]:
    """The backbone's weights and newly initialised prompts."""
    size = backbone.size.image_size
    frames = jnp.zeros((1, model.prompt_config.num_frames, size, size, 3), jnp.uint8)
    ids = jnp.full((1, backbone.size.context_length), backbone.size.eos_id)
    key = jax.random.key(seed)
    # Compiled, so that XLA drops the unused random weights of the backbone.
    prompts = jax.jit(
        lambda key: model.init({"params": key, "prompts": key}, frames, ids).get(
            "prompts", {}
        )
    )(key)
    variables: dict[str, Any] = {"params": backbone.params}
    return variables | ({"prompts": prompts} if prompts else {})


def check_train(config: RunConfig, devices: int, data: Data) -> None:
    """Checks that a configuration can be trained on a data set.

    Raises:
        UserError: the batch does not fit the devices or the number of videos.
    """
    check_fields(config)
    check_devices(config, devices)
    train = data.splits["train"]
    units = {"videos": train.video_ids, "pairs": train.captions}
    check_sizes(config, devices, {"train": len(units[config.epoch_of])})


@dataclasses.dataclass(frozen=True, eq=False)
class Run:
    """What training, evaluation and export work with; made by `assemble`.

    Attributes:
        config: its configuration.
        folder: where its files go.
        mesh: the devices.
        backbone: the frozen CLIP.
        model: the prompted model.
        data: the splits with their token ids.
        mask: of the variables, which of them train.
        leaves: path, shape and count of each trained parameter.
        trained_count: number of trained parameters.
        frozen: the variables that do not train, on the mesh.
        trainable: those that train, before the first step, on the host.
    """

    config: RunConfig
    folder: RunFolder
    mesh: Mesh
    backbone: Backbone
    model: DualEncoder
    data: Data = dataclasses.field(repr=False)
    mask: Any = dataclasses.field(repr=False)
    leaves: list[tuple[str, tuple[int, ...], int]]
    trained_count: int
    frozen: Any = dataclasses.field(repr=False)
    trainable: Any = dataclasses.field(repr=False)

    def feed(self) -> TrainFeed:
        """The training feed of this process.

        Raises:
            UserError: too few videos, or a batch that does not divide over the devices.
        """
        config = self.config
        check_batch(self.mesh, config.batch_size)
        return TrainFeed(
            self.data.splits["train"],
            batch_size=config.batch_size,
            seed=config.seed,
            group_size=config.group_size,
            epoch_of=config.epoch_of,
            identity=MASKS[config.mask_equal],
            augmentation=config.augmentation,
            epochs=config.epochs,
            buckets=() if self.model.size.full_captions else BUCKETS,
            shard_index=jax.process_index(),
            shard_count=jax.process_count(),
        )

    def show_trained(self) -> None:
        """Prints the table of trained parameters."""
        rows = [
            [path, "x".join(map(str, shape)), f"{count:,}"]
            for path, shape, count in self.leaves
        ]
        total = sum(x.size for x in jax.tree.leaves(self.frozen)) + self.trained_count
        share = 100 * self.trained_count / total
        rows.append(["all", f"{share:.3f}% of {total:,}", f"{self.trained_count:,}"])
        table(f"{self.config.method} trains", ["parameter", "shape", "count"], rows)
        if masked := MASKS[self.config.mask_equal]:
            say(
                f"pairs with the same {' or the same '.join(masked)} are not negatives "
                f"of each other (config.mask_equal={self.config.mask_equal})"
            )


def assemble(config: RunConfig, folder: RunFolder, shared: Run | None = None) -> Run:
    """Reads and builds what a run works with; what can be refused early comes first.

    Args:
        config: of the run.
        folder: where its files go; nothing is written yet.
        shared: a run on the same backbone and data, which are then not read again.

    Raises:
        UserError: the configuration does not fit the folder, the devices, the data or
            the backbone, or one of them cannot be read.
    """
    asked, config = config, as_begun(config, folder)
    if config.mask_equal != asked.mask_equal:
        say(f"{folder.path} was started with config.mask_equal={config.mask_equal}")
    # The checks that need neither weights nor frames.
    if config.row.trained:
        check_fields(config)
    mesh = make_mesh(config.mesh)
    config = _with_dtype(config, mesh)
    folder.check(config.as_json(), FREE_FIELDS, ADDED_FIELDS)
    if config.row.trained:
        check_devices(config, mesh.size)
    if shared is None:
        _check_sizes(config, mesh.size)
    # A mistake in the file is told before videos are prepared.
    captions = None
    if config.frame_captions not in ("", EXACT):
        where = config.frame_captions, config.dataset
        captions = read_frame_captions(*where, config.num_frames)
    # The backbone, the model and the data.
    backbone = shared.backbone if shared else load_backbone(config.backbone_folder)
    model = build_model(config, backbone)
    data = shared.data if shared else _load_data(config, backbone)
    data = _with_frame_captions(config, backbone, data, captions)
    if config.row.trained:
        check_train(config, mesh.size, data)
    # The variables, divided into what trains and what does not.
    variables = initial_variables(model, backbone, config.seed)
    mask = trained_mask(variables, config.row.trained)
    frozen = select(variables, mask, trained=False)
    return Run(
        config=config,
        folder=folder,
        mesh=mesh,
        backbone=backbone,
        model=model,
        data=data,
        mask=mask,
        leaves=trained_leaves(variables, mask),
        trained_count=count_trained(variables, mask),
        frozen=put_tree(mesh, store_frozen(frozen, config.compute.dtype)),
        trainable=select(variables, mask, trained=True),
    )


def _with_dtype(config: RunConfig, mesh: Mesh) -> RunConfig:
    """The configuration with a compute dtype of `auto` resolved for the devices."""
    if config.compute.dtype != "auto":
        return config
    size = config.backbone_size()
    dtype = config.compute.with_dtype(mesh.devices.flat[0], size).dtype
    # Hosts with unlike CPUs still compute alike.
    return config.with_dtype(DTYPES[from_main(DTYPES.index(dtype))])


def _check_sizes(config: RunConfig, devices: int) -> None:
    """Runs the checks that need only the configuration and the splits' sizes."""
    size = load_size(find_folder(config.backbone_folder))
    sizes, held_out = known_sizes(config, size)
    # The number of pairs is only known once the captions are read.
    if not config.row.trained or config.epoch_of != "videos":
        sizes.pop("train", None)
    check_sizes(config, devices, sizes, held_out)


def _with_frame_captions(
    config: RunConfig,
    backbone: Backbone,
    data: Data,
    captions: Mapping[str, Sequence[str]] | None,
) -> Data:
    """The data with captions of the training frames, if the loss reads them.

    Data that another run has read may hold some. Captions of a file are given; those
    that a data set tells belong to the frames that are stored.
    """
    size, train = backbone.size, data.splits["train"]
    if not config.frame_captions:
        return data._replace(
            splits={**data.splits, "train": without_frame_captions(train)}
        )
    if captions is None:
        where = config.frame_captions, config.dataset
        captions = read_frame_captions(*where, train.frames.count)
    length = config.prompts.caption_length(size.context_length)
    tokenize = load_tokenizer(backbone.folder, size, length)
    described = with_frame_captions(
        *(train, captions, tokenize),
        whole=size.full_captions,
        source=f"config.frame_captions={config.frame_captions}",
    )
    return data._replace(splits={**data.splits, "train": described})


def _load_data(config: RunConfig, backbone: Backbone) -> Data:
    size = backbone.size
    where = config.dataset, config.data_dir
    frames = config.num_frames, size.image_size, resizing_of(size)
    render_missing(*where, *frames, once=main_first)
    length = config.prompts.caption_length(size.context_length)
    return load_data(
        *where,
        num_frames=config.num_frames,
        image_size=size.image_size,
        resizing=resizing_of(size),
        tokenize=load_tokenizer(backbone.folder, size, length),
        holdout=config.holdout,
        train_on_holdout=config.train_on_holdout,
        memory_gb=config.memory_gb,
    )
