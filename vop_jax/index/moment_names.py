"""`VIDEO@SECONDS`: how a moment is named in flags and in addresses."""

import re


def moment_of(name: str) -> tuple[str, float]:
    """The video's path and the time in it, seconds.

    Raises:
        ValueError: it is not such a name.
    """
    video, _, seconds = name.rpartition("@")
    if not video or not re.fullmatch(r"[0-9]{1,9}(\.[0-9]{1,9})?", seconds):
        raise ValueError(f"{name[:200]} is not VIDEO@SECONDS, such as a/film.mp4@12.5")
    return video, float(seconds)


def name_of(video: str, seconds: float) -> str:
    """The name of the moment of a video at a time, in milliseconds."""
    # Those `g` writes without an exponent.
    return f"{video}@{round(seconds, 3):.12g}"
