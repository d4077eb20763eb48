"""The frames that a model was trained on, as the files of its folder state them.

A file may state the pixel statistics, which are folded into the patch embedding, how a
frame becomes square, and by which filter. What it leaves out is what the family's other
models have.
"""

import dataclasses
import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, NotRequired

from typing_extensions import TypedDict

from data_pipelines.console.errors import UserError
from data_pipelines.console.terminal import warn
from data_pipelines.files.json_files import described, read_json
from vop_jax.model.clip.sizes import FrameRecipe

# A quarter of one of 256 levels: files state the statistics with at least three digits.
_ROUNDING = 1e-3
# Pillow's numbers and the names of the filters.
_FILTERS = {2: "bilinear", 3: "bicubic", "bilinear": "bilinear", "bicubic": "bicubic"}
# open_clip's names of what makes a frame square.
_RESIZES = {None: None, "shortest": "crop", "squash": "squash"}
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
        resize: `crop` or `squash`.
        resample: Pillow's number of a filter, or its name.
    """

    mean: Any
    deviation: Any
    normalized: bool
    factor: Any
    side: Any
    resized: Any
    resize: str | None
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
        "crop" if cropped else "squash" if squashed else None,
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
    inner = values.get("preprocess_cfg")
    inner = inner if isinstance(inner, dict) else {}
    side, mode = _side(inner.get("size")), inner.get("resize_mode")
    if not isinstance(mode, str | None) or mode not in _RESIZES:
        raise UserError(
            f"{where}: preprocess_cfg.resize_mode is {_short(mode)}; such a CLIP is "
            "not supported"
        )
    return Stated(
        inner.get("mean"),
        inner.get("std"),
        True,
        None,
        side,
        side,
        _RESIZES[mode],
        inner.get("interpolation"),
    )


# The file that is written.
FRAMES = "preprocessor_config.json"
_FILES = {
    FRAMES: _hugging_face,
    "processor_config.json": _processor,
    "open_clip_config.json": _open_clip,
}
# In which order the files are asked: those of the format that a model is read from.
HUGGING_FACE = tuple(_FILES)
OPEN_CLIP = HUGGING_FACE[::-1]


def stated_frames(
    folder: Path,
    image_size: int,
    usual: FrameRecipe,
    order: Sequence[str] = HUGGING_FACE,
    *,
    warned: bool = False,
) -> FrameRecipe:
    """The frames that a model's folder states.

    The first file decides. Another size before the crop, another filter, and a second
    file that states other frames are a warning.

    Args:
        folder: of the model.
        image_size: of the model, pixels.
        usual: the frames of its family, for what no file states.
        order: names of the files, `HUGGING_FACE` or `OPEN_CLIP`.
        warned: whether warnings are given.

    Raises:
        UserError: pixels that are not scaled and normalised, another image size, or a
            damaged file.
    """
    first: tuple[Path, FrameRecipe] | None = None
    for name in order:
        path = folder / name
        if not os.path.lexists(path):
            continue
        values = read_json(path)
        if not isinstance(values, dict):
            raise UserError(f"{path} is damaged (not an object); fetch it again")
        stated = _FILES[name](values, str(path))
        _check_scaled(path, stated)
        _check_side(path, stated, image_size)
        found = FrameRecipe(
            stated.resize or usual.resize,
            _known_filter(stated) or usual.filter,
            _statistics(path, stated.mean, usual.mean, 0.0),
            _statistics(path, stated.deviation, usual.deviation, _ROUNDING),
        )
        if first is None:
            first = path, found
        if warned:
            _warn_of_differences(path, stated, image_size, found, *first)
    return first[1] if first else usual


def _warn_of_differences(
    path: Path,
    stated: Stated,
    image_size: int,
    found: FrameRecipe,
    first: Path,
    followed: FrameRecipe,
) -> None:
    """Warns of what is stated and not done."""
    different = []
    if stated.resample is not None and _known_filter(stated) is None:
        different.append(f"resized by another filter ({_short(stated.resample)})")
    if stated.resize == "crop" and stated.resized not in (None, image_size):
        different.append(f"resized to {_short(stated.resized)} pixels before the crop")
    if different:
        warn(
            f"{path}: the model was trained on frames that were "
            f"{' and '.join(different)}; here they are resized to {image_size} pixels "
            f"by a {found.filter} filter, so features differ a little"
        )
    if found != followed:
        names = [x.name for x in dataclasses.fields(found)]
        others = [x for x in names if getattr(found, x) != getattr(followed, x)]
        warn(
            f"{path} states other frames ({', '.join(others)}) than {first}, which is "
            "followed"
        )


def _known_filter(stated: Stated) -> str | None:
    resample = stated.resample
    # `True` is a number, and a list has no hash.
    known = type(resample) in (int, str)
    return _FILTERS.get(resample) if known else None


def _statistics(
    path: Path, values: Any, usual: tuple[float, float, float], least: float
) -> tuple[float, float, float]:
    """The statistics of the three channels that a file states.

    Args:
        path: the file.
        values: as it states them, None if it does not.
        usual: of the family; taken for values that are these, rounded.
        least: the smallest value allowed.

    Raises:
        UserError: they are not those of pixels between 0 and 1.
    """
    if values is None or _close(values, usual):
        return usual
    fits = (
        isinstance(values, list)
        and len(values) == len(usual)
        and all(type(x) in (int, float) and least <= x <= 1 for x in values)
    )
    if not fits:
        raise UserError(
            f"{path}: pixel statistics {_short(values)} are not those of three "
            "channels of pixels from 0 to 1; such a CLIP is not supported"
        )
    red, green, blue = map(float, values)
    return red, green, blue


def _check_scaled(path: Path, stated: Stated) -> None:
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


def _close(values: Any, ours: tuple[float, ...]) -> bool:
    return (
        isinstance(values, list)
        and len(values) == len(ours)
        and all(
            type(x) in (int, float) and math.isclose(x, y, abs_tol=_ROUNDING, rel_tol=0)
            for x, y in zip(values, ours, strict=True)
        )
    )


def frames_file(size: int, frames: FrameRecipe) -> dict[str, Any]:
    """The content of the `preprocessor_config.json` that states these frames.

    Args:
        size: of a frame, pixels.
        frames: how they are made.
    """
    square = {"height": size, "width": size}
    resizes = {
        "crop": {
            "do_center_crop": True,
            "crop_size": square,
            "size": {"shortest_edge": size},
            "image_processor_type": "CLIPImageProcessor",
        },
        "squash": {
            "do_center_crop": False,
            "size": square,
            "image_processor_type": "SiglipImageProcessor",
        },
    }
    return {
        **resizes[frames.resize],
        "do_convert_rgb": True,
        "do_normalize": True,
        "do_rescale": True,
        "do_resize": True,
        "image_mean": list(frames.mean),
        "image_std": list(frames.deviation),
        "resample": next(k for k, name in _FILTERS.items() if name == frames.filter),
        "rescale_factor": 1 / 255,
    }


def _short(value: Any) -> str:
    """A value of a JSON file, shortened for a message."""
    if isinstance(value, list | dict) and len(value) > 4:
        return f"of {len(value)} entries"
    text = repr(value)
    return text if len(text) <= _SHOWN else text[:_SHOWN] + "..."
