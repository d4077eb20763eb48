"""A run's programs, compiled ahead of time for devices that are not attached."""

from collections import Counter
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, NamedSharding

from vop_jax.devices.flops import count_flops
from vop_jax.devices.mesh import BATCH, check_batch, tree_shardings
from vop_jax.model.clip.sizes import ClipSize
from vop_jax.model.dual_encoder import DualEncoder
from vop_jax.model.embedder import TEXT_BATCH, Embedder
from vop_jax.model.shapes import abstract_variables
from vop_jax.model.stored import store_frozen
from vop_jax.model.trained import select, trained_mask
from vop_jax.optimization.config import MASKS
from vop_jax.optimization.losses import LOSSES
from vop_jax.optimization.optimizer import make_optimizer
from vop_jax.optimization.train_step import (
    compile_train_step,
    initial_state,
    make_train_step,
    merge,
)
from vop_jax.plan.collectives import Collective, count_collectives
from vop_jax.training.config import RunConfig


class Program(NamedTuple):
    """What a compiled program needs of each device.

    Attributes:
        arguments: bytes of its inputs, weights included.
        outputs: bytes of its results, except those in donated inputs.
        temporaries: bytes of temporary buffers.
        flops: of the matrix products of one execution.
        compiler_bytes: the compiler's count of bytes accessed, with each loop body
            counted once.
        compiler_flops: the compiler's count of FLOPs, the same way.
        collectives: the collectives, and how often each runs.
    """

    arguments: int
    outputs: int
    temporaries: int
    flops: int
    compiler_bytes: float
    compiler_flops: float
    collectives: Counter[Collective]

    @property
    def peak(self) -> int:
        """The peak memory in bytes."""
        return self.arguments + self.outputs + self.temporaries

    @property
    def bytes_moved(self) -> float:
        """The compiler's bytes, scaled for loops by the ratio of true to its FLOPs."""
        return self.compiler_bytes * max(1.0, self.flops / max(self.compiler_flops, 1))


class DoesNotFit(Exception):
    """A program needs more memory than the device has."""


class RunPrograms:
    """The programs of a configuration, compiled for a mesh.

    Args:
        config: of the run.
        size: of its backbone; the weights are never read.
        mesh: the devices to compile for.
        caption_tokens: N, the bucket length of the captions, where the text tower does
            not read their padding.

    Attributes:
        config: with the compute dtype of those devices.
    """

    def __init__(
        self, config: RunConfig, size: ClipSize, mesh: Mesh, caption_tokens: int
    ):
        dtype = config.compute.with_dtype(mesh.devices.flat[0], size).dtype
        self.config = config = config.with_dtype(dtype)
        self._size, self._mesh = size, mesh
        self._tokens = size.context_length if size.full_captions else caption_tokens
        self._model = DualEncoder(
            size, config.prompts, config.compute, config.renormalize_video
        )
        variables = abstract_variables(size, config.prompts)
        mask = trained_mask(variables, config.row.trained)
        self._trainable = select(variables, mask, trained=True)
        self._frozen = store_frozen(
            select(variables, mask, trained=False), config.compute.dtype
        )

    def train_step(self, batch_size: int) -> Program:
        """The training step, on a global batch of that size.

        Raises:
            DoesNotFit: it needs more memory than the device has.
            UserError: the batch does not divide over the devices.
        """
        config, mesh = self.config, self._mesh
        check_batch(mesh, batch_size)
        optimizer = make_optimizer(config.optimizer, self._trainable, steps=1000)
        state = jax.eval_shape(
            lambda tree: initial_state(tree, optimizer, 1.0), self._trainable
        )
        step = make_train_step(
            self._model,
            optimizer,
            mesh,
            loss=config.loss,
            micro_batch=config.micro_batch,
            loss_chunk=config.loss_chunk,
            alignment=config.alignment,
        )
        compiled = compile_train_step(step, mesh, state, self._frozen)
        batch = self._placed(
            self._frames(batch_size)
            | self._captions(batch_size)
            | self._identity(batch_size)
            | self._frame_captions(batch_size)
        )
        return measure(
            compiled,
            self._laid_out(state),
            self._laid_out(self._frozen),
            batch,
        )

    def evaluation(self, batch_size: int) -> dict[str, Program]:
        """The steps that embed videos and captions."""
        embedder = Embedder(self._model, self._mesh)
        variables = self._laid_out(merge(self._trainable, self._frozen))
        videos = self._placed(self._frames(embedder.rounded(batch_size)))["frames"]
        texts = self._placed(self._captions(embedder.rounded(TEXT_BATCH)))["text_ids"]
        return {
            "videos": measure(embedder.embed_videos, variables, videos),
            "texts": measure(embedder.embed_texts, variables, texts),
        }

    def _frames(self, count: int) -> dict[str, Any]:
        side = self._size.image_size
        shape = (count, self.config.num_frames, side, side, 3)
        return {"frames": jax.ShapeDtypeStruct(shape, jnp.uint8)}

    def _frame_captions(self, count: int) -> dict[str, Any]:
        """Captions of frames, if the loss takes them, as long as those of videos."""
        if "frame_ids" not in LOSSES[self.config.loss].inputs:
            return {}
        shape = (count, self.config.num_frames, self._tokens)
        return {"frame_ids": jax.ShapeDtypeStruct(shape, jnp.int32)}

    def _captions(self, count: int) -> dict[str, Any]:
        return {"text_ids": jax.ShapeDtypeStruct((count, self._tokens), jnp.int32)}

    def _identity(self, count: int) -> dict[str, Any]:
        columns = MASKS[self.config.mask_equal]
        shape = (count, len(columns))
        return {"identity": jax.ShapeDtypeStruct(shape, jnp.int32)} if columns else {}

    def _placed(self, batch: dict[str, Any]) -> dict[str, Any]:
        sharding = NamedSharding(self._mesh, BATCH)
        return {
            name: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding)
            for name, x in batch.items()
        }

    def _laid_out(self, tree: Any) -> Any:
        return jax.tree.map(
            lambda x, place: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=place),
            tree,
            tree_shardings(self._mesh, tree),
        )


def measure(function: Callable[..., Any], *arguments: Any) -> Program:
    """Compiles a jitted function and measures the program.

    Raises:
        DoesNotFit: it needs more memory than the device has.
    """
    try:
        compiled = function.lower(*arguments).compile()  # pyright: ignore[reportFunctionMemberAccess]
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        raise DoesNotFit(str(error).strip().splitlines()[0]) from None
    memory, cost = compiled.memory_analysis(), compiled.cost_analysis()
    return Program(
        arguments=memory.argument_size_in_bytes,
        outputs=memory.output_size_in_bytes - memory.alias_size_in_bytes,
        temporaries=memory.temp_size_in_bytes,
        flops=count_flops(function, *arguments),
        compiler_bytes=cost["bytes accessed"],
        compiler_flops=cost["flops"],
        collectives=count_collectives(compiled.as_text()),
    )


def largest_batch(
    fits: Callable[[int], float | None], multiple: int, start: int, limit: int
) -> int:
    """Searches for the largest batch size that fits, with few compilations.

    Args:
        fits: batch size -> the fraction of the memory it needs; None or above 1 if it
            does not fit.
        multiple: the number of devices; every size tried is a multiple of it.
        start: the first batch size to try.
        limit: the largest batch size to try.

    Returns:
        A size that fits and is within 3% of one that does not; 0 if not even one video
        per device fits.
    """
    good, bad, shares = 0, limit + multiple, {}
    size = start
    while bad - good > max(multiple, good * 0.03):
        share = fits(size)
        if share is not None and share <= 1:
            good, shares[size] = size, share
        else:
            bad = size
        size = _next_size(shares, good, bad, multiple)
    return good


def _next_size(shares: dict[int, float], good: int, bad: int, multiple: int) -> int:
    """The next size to try: where a line through two known fractions reaches 1."""
    if len(shares) > 1:
        (a, x), (b, y) = sorted(shares.items())[-2:]
        guess = b + (1 - y) * (b - a) / max(y - x, 1e-9)
    elif shares:
        guess = 2 * good
    else:
        guess = bad / 2
    # Not too close to the ends, so that either outcome narrows the bracket.
    margin = max(multiple, (bad - good) * 0.02)
    guess = min(max(guess, good + margin), bad - margin)
    return max(multiple, int(guess) // multiple * multiple)
