"""AdamW with a cosine schedule, on the leaves that train and on nothing else."""

import dataclasses
import re
from typing import Any

import jax
import optax
from flax import traverse_util

# Only matrices and prompts decay: pulling a bias or a LayerNorm scale to zero
# regularises nothing.
_UNDECAYED = r".*/(bias|scale|logit_scale|bias_ih_l0\w*|bias_hh_l0\w*|fc\.bias)"


@dataclasses.dataclass(frozen=True)
class OptimizerConfig:
    """How the trained leaves are moved.

    Attributes:
        learning_rate: at the top of the schedule.
        warmup: share of all steps in which the rate rises from zero.
        weight_decay: AdamW's, decoupled, on matrices and prompts.
        beta1: decay of the first moment.
        beta2: decay of the second moment.
        clip_norm: largest global norm of the trained leaves' gradient; 0 is no limit.
        context_rate: factor on the learning rate of the context generator.
    """

    learning_rate: float = 1e-3
    warmup: float = 0.1
    weight_decay: float = 0.2
    beta1: float = 0.9
    beta2: float = 0.98
    clip_norm: float = 1.0
    context_rate: float = 1.0


def rate_schedule(config: OptimizerConfig, steps: int) -> optax.Schedule:
    """Linear warm-up to 1, then a cosine to zero at the last step."""
    warmup = min(steps - 1, round(config.warmup * steps))
    return optax.warmup_cosine_decay_schedule(
        init_value=0.0 if warmup else 1.0,
        peak_value=1.0,
        warmup_steps=warmup,
        decay_steps=max(steps, 1),
    )


def make_optimizer(
    config: OptimizerConfig, trainable: Any, steps: int
) -> optax.GradientTransformation:
    """The optimizer of a run of that many steps, for a learning rate of 1.

    The rate itself is part of the state, so that one compiled step serves all rates.

    Args:
        config: its numbers.
        trainable: the variable tree with `optax.MaskedNode` for every frozen leaf, so
            that clipping, moments and decay see the trained leaves alone.
        steps: length of the schedule.
    """
    rates = _by_path(
        trainable, lambda path: config.context_rate if "/context/" in path else 1.0
    )
    decayed = _by_path(trainable, lambda path: not re.fullmatch(_UNDECAYED, path))
    clip = optax.clip_by_global_norm(config.clip_norm)
    return optax.chain(
        clip if config.clip_norm else optax.identity(),
        optax.scale_by_adam(config.beta1, config.beta2),
        optax.add_decayed_weights(config.weight_decay, decayed),
        optax.stateless(
            lambda updates, _: jax.tree.map(lambda u, rate: u * rate, updates, rates)
        ),
        optax.scale_by_learning_rate(rate_schedule(config, steps)),
    )


def _by_path(tree: Any, value: Any) -> Any:
    """A tree of the same structure whose leaves are `value(path)`."""
    flat = traverse_util.flatten_dict(tree, sep="/")
    return traverse_util.unflatten_dict(
        {
            path: leaf if isinstance(leaf, optax.MaskedNode) else value(path)
            for path, leaf in flat.items()
        },
        sep="/",
    )
