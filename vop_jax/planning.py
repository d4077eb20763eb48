"""A run's own programs, compiled ahead of time for devices that are not there."""

from collections import Counter
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, NamedSharding

from vop_jax.collectives import Collective, count_collectives
from vop_jax.config import RunConfig
from vop_jax.dual_encoder import DualEncoder
from vop_jax.embedder import TEXT_BATCH, Embedder
from vop_jax.flops import count_flops
from vop_jax.methods import select, trained_mask
from vop_jax.optimizer import make_optimizer
from vop_jax.parameters import abstract_variables
from vop_jax.sharding import BATCH, check_batch, tree_shardings
from vop_jax.sizes import ClipSize
from vop_jax.train_step import (
    compile_train_step,
    initial_state,
    make_train_step,
    merge,
    store_frozen,
)


class Program(NamedTuple):
    """What a compiled program takes of each device.

    Attributes:
        arguments: bytes of its inputs, weights included.
        outputs: bytes of its results that are not in the inputs' place.
        temporaries: bytes that it needs besides while it runs.
        flops: of its matrix products, one run.
        compiler_bytes: the compiler's count of bytes moved, each loop's body once.
        compiler_flops: the compiler's count of FLOPs, the same.
        collectives: what it sends, and how often.
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
        """Bytes needed at once."""
        return self.arguments + self.outputs + self.temporaries

    @property
    def bytes_moved(self) -> float:
        """The compiler's bytes, with loops counted as often as its FLOPs ask for."""
        return self.compiler_bytes * max(1.0, self.flops / max(self.compiler_flops, 1))


class DoesNotFit(Exception):
    """The compiler has no room for a program on the device."""


class Plan:
    """The programs of a configuration on a mesh.

    Args:
        config: of the run.
        size: of its backbone; the weights are never read.
        mesh: of the devices that are compiled for.
        caption_tokens: N, the bucket that captions are cut to.
    """

    def __init__(
        self, config: RunConfig, size: ClipSize, mesh: Mesh, caption_tokens: int
    ):
        self._config, self._size, self._mesh = config, size, mesh
        self._tokens = caption_tokens
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
        """The step that trains, on a global batch of that size.

        Raises:
            DoesNotFit: it takes more memory than the device has.
            UserError: the batch cannot be shared by the devices.
        """
        config, mesh = self._config, self._mesh
        check_batch(mesh, batch_size)
        optimizer = make_optimizer(config.optimizer, self._trainable, steps=1000)
        state = jax.eval_shape(
            lambda tree: initial_state(tree, optimizer, 1.0), self._trainable
        )
        step = make_train_step(
            self._model,
            optimizer,
            mesh,
            micro_batch=config.micro_batch,
            loss_chunk=config.loss_chunk,
        )
        compiled = compile_train_step(step, mesh, state, self._frozen)
        batch = self._placed(self._frames(batch_size) | self._captions(batch_size))
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
        shape = (count, self._config.num_frames, side, side, 3)
        return {"frames": jax.ShapeDtypeStruct(shape, jnp.uint8)}

    def _captions(self, count: int) -> dict[str, Any]:
        return {"text_ids": jax.ShapeDtypeStruct((count, self._tokens), jnp.int32)}

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
    """Compiles a function of `jax.jit` and looks at what came out.

    Raises:
        DoesNotFit: it takes more memory than the device has.
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
    """The largest multiple that fits, found by few tries.

    Args:
        fits: batch size -> the share of the memory it takes, None or above 1 where it
            does not fit.
        multiple: the step, the number of devices.
        start: a batch size to begin with, a multiple.
        limit: the largest that is wanted.

    Returns:
        A size that fits, with the next one above it that was tried within 3%; 0 where
        not even one video a device fits.
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
    """Where the line through two known shares reaches the limit, within the bracket."""
    if len(shares) > 1:
        (a, x), (b, y) = sorted(shares.items())[-2:]
        guess = b + (1 - y) * (b - a) / max(y - x, 1e-9)
    elif shares:
        guess = 2 * good
    else:
        guess = bad / 2
    # Away from the ends, so that either answer narrows the bracket.
    margin = max(multiple, (bad - good) * 0.02)
    guess = min(max(guess, good + margin), bad - margin)
    return max(multiple, int(guess) // multiple * multiple)
