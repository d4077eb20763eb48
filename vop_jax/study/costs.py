"""What the cells of a study cost: work in FLOPs, and speed on the machine at hand."""

import statistics
import time
from collections.abc import Callable, Mapping
from typing import TypedDict

import jax
import jax.numpy as jnp
import numpy as np

from vop_jax.devices.config import MeshConfig
from vop_jax.devices.flops import count_flops
from vop_jax.devices.mesh import make_mesh, put_tree
from vop_jax.model.dual_encoder import DualEncoder
from vop_jax.model.embedder import Embedder
from vop_jax.model.shapes import abstract_variables
from vop_jax.model.stored import store_frozen
from vop_jax.model.trained import select, trained_mask
from vop_jax.optimization.train_step import make_loss_and_gradient, merge
from vop_jax.training.config import RunConfig
from vop_jax.training.run import Run, build_model, initial_variables

# Videos that are timed together; rounds, after one that does not count; and the most
# tokens of a caption, as long ones are rare.
_VIDEOS, _ROUNDS, _TOKENS = 32, 7, 32


class Costs(TypedDict):
    """The costs of a cell.

    Attributes:
        train_gflop: of a train step, for each video of its batch.
        inference_gflop: of embedding a video and a caption.
        train_flops: relative to the cell that the study names.
        inference_flops: likewise.
        videos_per_second: that are embedded.
        renormalized: whether the mean over frames is scaled to length 1 again.
    """

    train_gflop: float
    inference_gflop: float
    train_flops: float
    inference_flops: float
    videos_per_second: float
    renormalized: bool


def costs_of(
    configs: Mapping[str, RunConfig], shared: Run, reference: str
) -> dict[str, Costs]:
    """The costs of a study's cells.

    Args:
        configs: cell -> the configuration of a run of it.
        shared: a run on the same backbone.
        reference: the cell that the others are compared with.

    Raises:
        UserError: a cell that does not fit the backbone.
    """
    dtype = shared.config.compute.dtype
    configs = {name: config.with_dtype(dtype) for name, config in configs.items()}
    models = {name: build_model(x, shared.backbone) for name, x in configs.items()}
    work = {name: count_work(models[name], x) for name, x in configs.items()}
    speeds = time_by_turns(_calls(models, shared))
    base = work[reference]
    return {
        name: {
            "train_gflop": train / 1e9,
            "inference_gflop": inference / 1e9,
            "train_flops": train / base[0],
            "inference_flops": inference / base[1],
            "videos_per_second": _VIDEOS / speeds[name],
            "renormalized": configs[name].renormalize_video,
        }
        for name, (train, inference) in work.items()
    }


def count_work(model: DualEncoder, config: RunConfig) -> tuple[float, float]:
    """FLOPs of a train step and of a forward pass, for each video with its caption.

    Matrix products alone, see `count_flops`; what is computed once a step, whatever the
    batch, is divided by the batch of the configuration.

    Args:
        model: of the configuration.
        config: of a run.
    """
    size, batch = model.size, config.batch_size
    tokens = size.context_length
    tokens = tokens if size.full_captions else min(tokens, _TOKENS)
    variables = abstract_variables(size, model.prompt_config)
    mask = trained_mask(variables, config.row.trained)
    parts = [select(variables, mask, trained=x) for x in (True, False)]
    shape = (batch, config.num_frames, size.image_size, size.image_size, 3)
    inputs = {
        "frames": jax.ShapeDtypeStruct(shape, jnp.uint8),
        "text_ids": jax.ShapeDtypeStruct((batch, tokens), jnp.int32),
        # Read by a loss that takes captions of frames.
        "frame_ids": jax.ShapeDtypeStruct((*shape[:2], tokens), jnp.int32),
    }
    device = make_mesh(MeshConfig(), jax.devices()[:1])
    step = make_loss_and_gradient(
        model, device, loss=config.loss, alignment=config.alignment
    )
    pairs = inputs["frames"], inputs["text_ids"]
    inference = count_flops(model.apply, merge(*parts), *pairs) / batch
    return count_flops(step, *parts, inputs) / batch, inference


def _calls(
    models: Mapping[str, DualEncoder], shared: Run
) -> dict[str, Callable[[], object]]:
    """Of each model, the embedding of the same videos of noise."""
    backbone, mesh = shared.backbone, shared.mesh
    dtype, side = shared.config.compute.dtype, backbone.size.image_size
    shape = (_VIDEOS, shared.config.num_frames, side, side, 3)
    frames = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
    # Placed once for all models, which differ in what is added to it.
    params = put_tree(mesh, store_frozen(backbone.params, dtype))

    def call(model: DualEncoder) -> Callable[[], object]:
        added = initial_variables(model, backbone, shared.config.seed)
        added.pop("params")
        variables = {"params": params} | put_tree(mesh, added)
        embedder = Embedder(model, mesh)
        return lambda: embedder.frames(variables, frames, _VIDEOS)

    return {name: call(model) for name, model in models.items()}


def time_by_turns(
    calls: Mapping[str, Callable[[], object]],
    clock: Callable[[], float] = time.perf_counter,
) -> dict[str, float]:
    """The median seconds of each call.

    They are timed by turns, so that other work of the machine slows all of them alike.
    The first of each does not count: it compiles.

    Args:
        calls: name -> the call.
        clock: seconds.
    """
    seconds: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(1 + _ROUNDS):
        for name, call in calls.items():
            started = clock()
            call()
            seconds[name].append(clock() - started)
    return {name: statistics.median(x[1:]) for name, x in seconds.items()}
