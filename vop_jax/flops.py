"""How many floating-point operations a function takes, counted before compiling."""

import math
from collections.abc import Callable
from typing import Any

import jax


def count_flops(function: Callable[..., Any], *arguments: Any) -> int:
    """FLOPs of all matrix products of a function, loops as often as they run.

    The compiler's own count takes a loop's body once. A product that is computed again
    on the way back counts again; norms, softmax and activations (under 1% of a CLIP)
    do not count.

    Args:
        function: anything JAX can trace.
        arguments: arrays or shapes. Where the function splits them over devices, what
            is counted is one device's share.
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
    # A while loop says nowhere how often it runs; none of this project's do products.
    return sum(inside) * equation.params.get("length", 1)


def _inner(equation: Any) -> list[Any]:
    """The programs inside an equation."""
    found = []
    for value in equation.params.values():
        for one in value if isinstance(value, tuple | list) else (value,):
            one = getattr(one, "jaxpr", one)
            if hasattr(one, "eqns"):
                found.append(one)
    return found
