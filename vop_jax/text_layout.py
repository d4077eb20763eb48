"""Where a caption's prompts stand in the sequence of the text tower.

`prefix` (the paper): in front of the words and apart from them, so that all positions
are the caption's. `modelscope` (the authors' released checkpoint): half of them behind
the start token and half in front of the sequence's last token, on positions of their
own; the caption gets what is left, and is read out as many rows behind its EOT token as
there are prompts, which for a short caption is padding that the last prompts cannot
reach.
"""

from collections.abc import Sequence

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Int

TEXT_LAYOUTS = ("prefix", "modelscope")


def prompt_slots(layout: str, prompts: int, context_length: int) -> list[int]:
    """The rows of the sequence that belong to prompts, none where they stand apart.

    Args:
        layout: one of `TEXT_LAYOUTS`.
        prompts: P, of each layer.
        context_length: the backbone's.
    """
    if layout == "prefix":
        return []
    behind = prompts - prompts // 2
    return [
        *range(1, 1 + prompts // 2),
        *range(context_length - 1 - behind, context_length - 1),
    ]


def arrange(
    ids: Int[Array, "B N"], slots: Sequence[int], context_length: int
) -> Int[Array, "B S"]:
    """The token ids of the whole sequence, those in the prompts' slots of no meaning.

    Without slots it is the caption as it comes, of any length. With slots it has the
    backbone's full length, because its last row is one of the caption's.
    """
    if not slots:
        return ids
    free = np.setdiff1d(np.arange(context_length), slots)
    caption = jnp.pad(ids, ((0, 0), (0, context_length)))[:, : len(free)]
    return jnp.zeros((len(ids), context_length), ids.dtype).at[:, free].set(caption)
