"""The position of the prompts in the text tower's sequence.

`prefix` (the paper): before all words and without a position of their own, so that the
caption can use all positions. `modelscope` (the authors' released checkpoint): half of
them after the SOT token and half before the last token of the sequence, each on a
position; the caption gets the other positions, and its embedding is read as many rows
after its EOT token as there are prompts. For a short caption that is a padding row,
which the second half of the prompts cannot influence.
"""

TEXT_LAYOUTS = ("prefix", "modelscope")


def prompt_slots(layout: str, prompts: int, context_length: int) -> list[int]:
    """The positions of the sequence that hold prompts; none with `prefix`.

    Args:
        layout: one of `TEXT_LAYOUTS`.
        prompts: P, the number of prompts of each layer.
        context_length: of the backbone.
    """
    if layout == "prefix":
        return []
    behind = prompts - prompts // 2
    return [
        *range(1, 1 + prompts // 2),
        *range(context_length - 1 - behind, context_length - 1),
    ]
