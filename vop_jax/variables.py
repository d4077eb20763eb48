"""Variables of the collection `prompts`: everything that is added to a backbone."""

from collections.abc import Callable

from flax import linen as nn
from jax import numpy as jnp
from jax import random
from jaxtyping import Array

PROMPTS = "prompts"

Initializer = Callable[[Array, tuple[int, ...]], Array]


def added(
    module: nn.Module, name: str, shape: tuple[int, ...], initializer: Initializer
) -> Array:
    """A float32 variable of the collection, drawn when the module is initialised."""
    return module.variable(
        PROMPTS, name, lambda: initializer(module.make_rng(PROMPTS), shape)
    ).value


def normal(deviation: float) -> Initializer:
    """Normally distributed around zero."""
    return lambda key, shape: deviation * random.normal(key, shape)


def uniform(bound: float) -> Initializer:
    """Uniform within the bound, PyTorch's default for linear layers and LSTMs."""
    return lambda key, shape: random.uniform(key, shape, minval=-bound, maxval=bound)


def constant(value: float) -> Initializer:
    """The same number everywhere."""
    return lambda key, shape: jnp.full(shape, value)
