"""Variable trees as flat dictionaries by path, such as `params/vision/projection`."""

from collections.abc import Mapping
from typing import Any

from flax import traverse_util


def paths(tree: Mapping[str, Any]) -> dict[str, Any]:
    """The leaves of a nested tree by path, in the order of the tree."""
    return traverse_util.flatten_dict(dict(tree), sep="/")


def from_paths(leaves: Mapping[str, Any]) -> dict[str, Any]:
    """The nested tree of leaves by path; the inverse of `paths`."""
    return traverse_util.unflatten_dict(dict(leaves), sep="/")
