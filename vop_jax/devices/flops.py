"""Counts the floating-point operations of a function before it is compiled."""

import math
from collections.abc import Callable
from typing import Any

import jax


def count_flops(function: Callable[..., Any], *arguments: Any) -> int:
    """FLOPs of all matrix products of a function, with loops counted per iteration.

    XLA's own cost analysis counts a loop's body once. Products that are recomputed in
    the backward pass count again; norms, softmax and activations (under 1% of a CLIP)
    do not count.

    Args:
        function: anything JAX can trace.
        arguments: arrays or shapes. If the function shards them over devices, the
            FLOPs of one device are counted.
    """
    return _of(jax.make_jaxpr(function)(*arguments).jaxpr)


def _of(jaxpr: Any) -> int:
    return sum(_of_equation(equation) for equation in jaxpr.eqns)


def _of_equation(equation: Any) -> int:
    if equation.primitive is jax.lax.dot_general_p:
        (contracted, _), _ = equation.params["dimension_numbers"]
        left = equation.invars[0].aval.shape
        depth = math.prod(left[axis] for axis in contracted)
        return 2 * depth * math.prod(equation.outvars[0].aval.shape)
    inside = [_of(jaxpr) for jaxpr in _inner(equation)]
    if equation.primitive is jax.lax.cond_p:
        return max(inside)
    # A while loop has no static trip count; none of this project contains products.
    return sum(inside) * equation.params.get("length", 1)


def _inner(equation: Any) -> list[Any]:
    """The jaxprs inside an equation."""
    found = []
    for value in equation.params.values():
        for one in value if isinstance(value, tuple | list) else (value,):
            one = getattr(one, "jaxpr", one)
            if hasattr(one, "eqns"):
                found.append(one)
    return found
