"""AdamW with a cosine schedule, on the trained parameters only."""

import re
from typing import Any

import jax
import optax

from vop_jax.model.tree_paths import from_paths, paths
from vop_jax.optimization.config import OptimizerConfig

# Parameters without weight decay: pulling a bias or a LayerNorm scale towards zero does
# not regularise.
_UNDECAYED = (
    r".*[/.]((\w+_)?bias|bias_[ih]h_l0\w*|scale|logit_scale"
    r"|((layer_)?norm\d|ln_\w+)\.weight)"
)


def rate_schedule(config: OptimizerConfig, steps: int) -> optax.Schedule:
    """Linear warm-up to 1, then cosine decay to 0 at the last step."""
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
    """The optimizer of a run, for a learning rate of 1.

    The learning rate itself is part of the training state, so that one compiled step
    serves every learning rate.

    Args:
        config: the hyperparameters.
        trainable: the variable tree with `optax.MaskedNode` for every frozen leaf, so
            that clipping, moments and decay apply to the trained leaves only.
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
    return from_paths(
        {
            path: leaf if isinstance(leaf, optax.MaskedNode) else value(path)
            for path, leaf in paths(tree).items()
        }
    )
