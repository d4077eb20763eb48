"""The dtypes of a tower."""

import dataclasses


@dataclasses.dataclass(frozen=True)
class Precision:
    """The dtypes of a tower; see `vop_jax.model.clip.products`.

    Attributes:
        operands: what matrix products multiply.
        results: what they result in, and what is computed between them.
    """

    operands: str = "float32"
    results: str = "float32"
