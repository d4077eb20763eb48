"""The ways to cut a video into moments, by name."""

from collections.abc import Callable
from typing import TYPE_CHECKING

from data_pipelines.console.errors import UserError

if TYPE_CHECKING:
    from data_pipelines.decoding.shots import ShotDetector


def _shots() -> "type[ShotDetector]":
    # Imported late: it needs packages that are optional.
    from data_pipelines.decoding.shots import ShotDetector

    return ShotDetector


# The default: equal windows of time.
WINDOWS = "windows"
# Imports what finds where shots begin; None if a video is cut without looking at it.
CUTS: "dict[str, Callable[[], type[ShotDetector]] | None]" = {
    WINDOWS: None,
    "shots": _shots,
}


def check_cut(cut: str) -> None:
    """Checks that videos can be cut in a way.

    Args:
        cut: a name of `CUTS`.

    Raises:
        UserError: there is no such way, or the packages that it needs are missing.
    """
    if cut not in CUTS:
        raise UserError(f"--cut is {cut[:80]}; pass one of {', '.join(CUTS)}")
    load = CUTS[cut]
    try:
        if load:
            load()
    except ImportError as error:
        reason = " ".join(str(error).split())[:200]
        raise UserError(
            f"--cut={cut} needs PySceneDetect ({reason}); run pip install "
            "'scenedetect-headless>=0.7.2,<0.8'"
        ) from None
