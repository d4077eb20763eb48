"""Checks that a CLIP was trained with the preprocessing used here.

That is OpenAI's: the shorter side is resized to the image size (bicubic), the centre is
cropped, and pixels are normalised by OpenAI's mean and standard deviation, which are
folded into the patch embedding. Other pixel statistics are an error; another resizing,
which makes frames a little blurrier or wider, is a warning.
"""

import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple, NotRequired

from typing_extensions import TypedDict

from data_pipelines.console.errors import UserError
from data_pipelines.console.terminal import warn
from data_pipelines.files.json_files import described, read_json
from vop_jax.model.clip.sizes import PIXEL_DEVIATION, PIXEL_MEAN

# A quarter of one of 256 levels: files state the statistics with at least three digits.
_ROUNDING = 1e-3
_BICUBIC = (3, "bicubic")
_SHOWN = 60


class Stated(NamedTuple):
    """The preprocessing that a file states; fields that it does not state are None.

    Attributes:
        mean: of the pixels of each channel, between 0 and 1.
        deviation: standard deviation of the pixels of each channel.
        normalized: whether pixels are scaled and normalised at all.
        factor: scale factor on the pixels' bytes.
        side: height and width of the model's input, pixels.
        resized: the shorter side before the centre crop, pixels.
        squashed: whether frames are resized to a square without cropping.
        resample: Pillow's number of a filter, or its name.
    """

    mean: Any
    deviation: Any
    normalized: bool
    factor: Any
    side: Any
    resized: Any
    squashed: bool
    resample: Any


def _side(value: Any, *keys: str) -> Any:
    """The side length of a size that is a number, a list, or an object."""
    if isinstance(value, Mapping):
        value = [value[key] for key in keys if key in value]
    if isinstance(value, list):
        value = value[0] if value and value == value[:1] * len(value) else None
    return value


class _Steps(TypedDict):
    """Which steps a `preprocessor_config.json` takes; a text would count as true."""

    do_resize: NotRequired[bool | None]
    do_center_crop: NotRequired[bool | None]
    do_rescale: NotRequired[bool | None]
    do_normalize: NotRequired[bool | None]


def _hugging_face(values: dict[str, Any], where: str) -> Stated:
    """Reads a `preprocessor_config.json`."""
    described(values, _Steps, where)
    size = values.get("size")
    cropped = values.get("do_center_crop", "crop_size" in values)
    squashed = (
        not cropped and isinstance(size, Mapping) and {"height", "width"} <= {*size}
    )
    resized = _side(size, "shortest_edge", "height", "width")
    side = _side(values.get("crop_size"), "height", "width") if cropped else resized
    return Stated(
        values.get("image_mean"),
        values.get("image_std"),
        all(values.get(x) is not False for x in ("do_rescale", "do_normalize")),
        values.get("rescale_factor"),
        side,
        resized if values.get("do_resize", True) else None,
        squashed,
        values.get("resample"),
    )


def _processor(values: dict[str, Any], where: str) -> Stated:
    """Reads a `processor_config.json`, which may hold the same."""
    inner = values.get("image_processor")
    return _hugging_face(
        inner if isinstance(inner, dict) else {}, f"{where}: image_processor"
    )


def _open_clip(values: dict[str, Any], where: str) -> Stated:
    """Reads an `open_clip_config.json`."""
    del where
    inner = values.get("preprocess_cfg")
    inner = inner if isinstance(inner, dict) else {}
    side = _side(inner.get("size"))
    return Stated(
        inner.get("mean"),
        inner.get("std"),
        True,
        None,
        side,
        side,
        inner.get("resize_mode") == "squash",
        inner.get("interpolation"),
    )


_FILES = {
    "preprocessor_config.json": _hugging_face,
    "processor_config.json": _processor,
    "open_clip_config.json": _open_clip,
}


def check_preprocessing(folder: Path, image_size: int) -> None:
    """Compares the preprocessing that a model's folder states with the one used here.

    Another filter, another size before the crop, or squashing is a warning.

    Args:
        folder: of the model.
        image_size: of the model, pixels.

    Raises:
        UserError: other pixel statistics, another image size, or a damaged file.
    """
    for name, read in _FILES.items():
        path = folder / name
        if not os.path.lexists(path):
            continue
        values = read_json(path)
        if not isinstance(values, dict):
            raise UserError(f"{path} is damaged (not an object); fetch it again")
        stated = read(values, str(path))
        _check_pixels(path, stated)
        _check_side(path, stated, image_size)
        if different := _differences(stated, image_size):
            warn(
                f"{path}: the model was trained on frames that were "
                f"{' and '.join(different)}; here they are resized by a bicubic "
                "filter and centre-cropped, so features differ a little"
            )


def _check_pixels(path: Path, stated: Stated) -> None:
    for values, ours in (
        (stated.mean, PIXEL_MEAN),
        (stated.deviation, PIXEL_DEVIATION),
    ):
        if values is not None and not _close(values, ours):
            raise UserError(
                f"{path}: pixel statistics {_short(values)} are not OpenAI's; such a "
                "CLIP is not supported"
            )
    factor = stated.factor
    if isinstance(factor, int | float):
        factor = None if _close([factor * 255], (1.0,)) else factor
    if not stated.normalized or factor is not None:
        raise UserError(
            f"{path}: its pixels are not scaled by 1/255 and then normalised "
            f"(do_rescale, do_normalize, rescale_factor {_short(stated.factor)}); such "
            "a CLIP is not supported"
        )


def _check_side(path: Path, stated: Stated, image_size: int) -> None:
    if stated.side is not None and stated.side != image_size:
        raise UserError(
            f"{path}: images of {_short(stated.side)} pixels, but the model takes "
            f"{image_size}; they are not of one model"
        )


def _differences(stated: Stated, image_size: int) -> list[str]:
    """The differences from the preprocessing used here."""
    found = []
    if stated.resample is not None and stated.resample not in _BICUBIC:
        found.append(f"resized by another filter ({_short(stated.resample)})")
    if stated.squashed:
        found.append("squashed to a square")
    elif stated.resized is not None and stated.resized != image_size:
        found.append(f"resized to {_short(stated.resized)} pixels before the crop")
    return found


def _close(values: Any, ours: tuple[float, ...]) -> bool:
    return (
        isinstance(values, list)
        and len(values) == len(ours)
        and all(
            type(x) in (int, float) and math.isclose(x, y, abs_tol=_ROUNDING, rel_tol=0)
            for x, y in zip(values, ours, strict=True)
        )
    )


def _short(value: Any) -> str:
    """A value of a JSON file, shortened for a message."""
    if isinstance(value, list | dict) and len(value) > 4:
        return f"of {len(value)} entries"
    text = repr(value)
    return text if len(text) <= _SHOWN else text[:_SHOWN] + "..."
