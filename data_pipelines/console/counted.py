"""Numbers with what they count, as people read them."""


def counted(number: int, one: str, many: str = "") -> str:
    """A number and its noun, such as "1 video" or "1,234 videos".

    Args:
        number: how many.
        one: the noun for one.
        many: the noun for any other number; by default `one` with an s.
    """
    return f"{number:,} {one if number == 1 else many or one + 's'}"
