"""Variables of the Flax collection `prompts`, which holds all that is added to CLIP."""

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
    """Declares a float32 variable of the collection `prompts`."""
    return module.variable(
        PROMPTS, name, lambda: initializer(module.make_rng(PROMPTS), shape)
    ).value


def normal(std: float) -> Initializer:
    """Normally distributed with mean 0 and that standard deviation."""
    return lambda key, shape: std * random.normal(key, shape)


def uniform(bound: float) -> Initializer:
    """Uniform in [-bound, bound], PyTorch's default for linear layers and LSTMs."""
    return lambda key, shape: random.uniform(key, shape, minval=-bound, maxval=bound)


def constant(value: float) -> Initializer:
    """The same value everywhere."""
    return lambda key, shape: jnp.full(shape, value)
