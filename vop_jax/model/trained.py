"""Which parameters of a model train: the patterns of a method, applied to its tree."""

import re
from typing import Any

import jax
import optax

from vop_jax.model.clip.param_shapes import param_shapes
from vop_jax.model.clip.sizes import ClipSize
from vop_jax.model.methods import BACKBONE
from vop_jax.model.tree_paths import from_paths, paths


def trained_mask(variables: Any, trained: tuple[str, ...]) -> Any:
    """Resolves patterns to a mask of the parameters that train.

    Args:
        variables: the collections `params` and `prompts`, arrays or shapes.
        trained: patterns, each matched against complete paths.

    Returns:
        A tree of the same structure with True where a parameter trains.

    Raises:
        ValueError: a pattern that matches nothing, a parameter that matches two, a
            prompt that would not train, or a parameter that no rule covers.
    """
    leaves = paths(variables)
    used = set()
    mask = {}
    for path in leaves:
        matching = [x for x in trained if re.fullmatch(x, path)]
        if len(matching) > 1:
            raise ValueError(f"{path} is claimed by {' and by '.join(matching)}")
        used.update(matching)
        covered = any(re.fullmatch(x, path) for x in BACKBONE)
        if not matching and not covered:
            raise ValueError(f"no rule says whether {path} trains")
        mask[path] = bool(matching)
    unused = [x for x in trained if x not in used]
    if unused:
        raise ValueError(f"no leaf matches {', '.join(unused)}")
    return from_paths(mask)


def lacking_parameters(size: ClipSize, trained: tuple[str, ...]) -> list[str]:
    """Patterns of backbone parameters that match none of a backbone's.

    Args:
        size: of the backbone.
        trained: the patterns of a method.
    """
    own = [f"params/{path}" for path in param_shapes(size)]
    return [
        pattern
        for pattern in trained
        if pattern.startswith("params/")
        and not any(re.fullmatch(pattern, path) for path in own)
    ]


def trained_leaves(variables: Any, mask: Any) -> list[tuple[str, tuple[int, ...], int]]:
    """(path, shape, parameter count) of what trains, in the order of the tree."""
    chosen = paths(mask)
    return [
        (path, tuple(leaf.shape), leaf.size)
        for path, leaf in paths(variables).items()
        if chosen[path]
    ]


def count_trained(variables: Any, mask: Any) -> int:
    """The number of trained parameters."""
    return sum(size for _, _, size in trained_leaves(variables, mask))


def select(variables: Any, mask: Any, *, trained: bool) -> Any:
    """The trained (or the frozen) leaves, with `optax.MaskedNode` for all others."""
    return jax.tree.map(
        lambda leaf, chosen: leaf if chosen == trained else optax.MaskedNode(),
        variables,
        mask,
    )
