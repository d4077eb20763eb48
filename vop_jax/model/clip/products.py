"""Matrix products in a dtype that may be narrower than that of everything else.

Every device multiplies bfloat16 into a float32 sum. A TPU or a GPU rounds that sum to
bfloat16 as it stores it, which halves what moves through memory. XLA's CPU compiler has
a bfloat16 product only with a float32 result; one with a bfloat16 result it computes in
float32 altogether. So there the results stay as wide as they come, as do norms,
activations and the residual stream between the products.
"""

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array

from vop_jax.model.clip.precision import Precision


def dense(precision: Precision) -> dict[str, Any]:
    """The arguments that make one of Flax's dense layers compute in a precision."""

    def promote(rows: Array, kernel: Array, bias: Array | None, dtype: Any) -> Any:
        del dtype
        return rows, kernel, bias if bias is None else bias.astype(precision.results)

    def dot_general(rows: Array, kernel: Array, dimensions: Any, **_: Any) -> Array:
        (contracted, _), _ = dimensions
        return product(rows, kernel, precision, len(contracted))

    return {"promote_dtype": promote, "dot_general": dot_general}


def product(
    rows: Array, kernel: Array, precision: Precision, contracted: int = 1
) -> Array:
    """The product of rows and a kernel, of any dtypes.

    Args:
        rows: `[..., A]`, where A stands for one or more axes.
        kernel: `[A, ...]`.
        precision: the dtypes of the product.
        contracted: the number of axes that A stands for.
    """
    if precision.operands == precision.results:
        left, right = (x.astype(precision.operands) for x in (rows, kernel))
        return jax.lax.dot_general(left, right, _dimensions(rows.ndim, contracted))
    return _wide(rows, kernel, precision, contracted)


def _dimensions(rows: int, contracted: int) -> Any:
    """The last axes of the rows with the first of the kernel."""
    last = tuple(range(rows - contracted, rows))
    return (last, tuple(range(contracted))), ((), ())


def _multiply(left: Array, right: Array, axes: Any, precision: Precision) -> Array:
    return jax.lax.dot_general(
        left.astype(precision.operands),
        right.astype(precision.operands),
        axes,
        preferred_element_type=jnp.dtype(precision.results),
    )


def _multiply_wide(
    rows: Array, kernel: Array, precision: Precision, contracted: int
) -> Array:
    return _multiply(rows, kernel, _dimensions(rows.ndim, contracted), precision)


# Automatic differentiation would multiply the wide gradient with the narrow operand,
# which computes the complete backward pass in the wide dtype.
_wide: Any = jax.custom_vjp(_multiply_wide, nondiff_argnums=(2, 3))


def _wide_forward(
    rows: Any, kernel: Any, precision: Precision, contracted: int
) -> tuple[Array, Any]:
    # With symbolic zeros each argument says whether it is differentiated: a frozen
    # kernel has no gradient, and without one the rows need not be saved.
    saved = (
        rows.value.astype(precision.operands) if kernel.perturbed else None,
        kernel.value if rows.perturbed else None,
        # Arrays without elements, for their dtypes: a gradient has its value's.
        jnp.zeros(0, rows.value.dtype),
        jnp.zeros(0, kernel.value.dtype),
    )
    return _wide(rows.value, kernel.value, precision, contracted), saved


def _wide_backward(
    precision: Precision, contracted: int, saved: Any, gradient: Array
) -> tuple[Array | None, Array | None]:
    rows, kernel, rows_like, kernel_like = saved
    by_rows = by_kernel = None
    if kernel is not None:
        features = kernel.ndim - contracted
        last = range(gradient.ndim - features, gradient.ndim)
        axes = (tuple(last), tuple(range(contracted, kernel.ndim))), ((), ())
        by_rows = _multiply(gradient, kernel, axes, precision)
        by_rows = by_rows.astype(rows_like.dtype)
    if rows is not None:
        batch = tuple(range(rows.ndim - contracted))
        by_kernel = _multiply(rows, gradient, ((batch, batch), ((), ())), precision)
        by_kernel = by_kernel.astype(kernel_like.dtype)
    return by_rows, by_kernel


_wide.defvjp(_wide_forward, _wide_backward, symbolic_zeros=True)
