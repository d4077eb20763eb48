"""The `config.json` of a backbone's folder, of any family, and what is beside it."""

import dataclasses
import json
import os
from pathlib import Path
from typing import Any

from data_pipelines.console.errors import UserError
from data_pipelines.files.json_files import read_json, shown
from vop_jax.model.clip.sizes import ClipSize
from vop_jax.runtime.files import write_atomically
from vop_jax.weights.families import FAMILIES, OWN_TYPE, family_of
from vop_jax.weights.file_names import CONFIG, WEIGHTS
from vop_jax.weights.hugging_face_config import (
    FORMS,
    read_transformers,
    write_transformers,
)
from vop_jax.weights.own_config import read_own, write_own
from vop_jax.weights.preprocessing import FRAMES, frames_file, stated_frames
from vop_jax.weights.special_tokens import caption_ends, kind_of_tokenizer

# Models that look alike and are not supported -> what to use instead.
_OTHERS = {
    "siglip2": (
        "a SigLIP 2 of variable resolution (NaFlex); use one of fixed resolution, "
        "whose model_type is siglip"
    ),
    "coca": "a captioner (CoCa)",
    "blip": "a captioner (BLIP)",
    "blip-2": "a captioner (BLIP-2)",
    "clip_vision_model": "a vision tower alone; use the complete model",
    "clip_text_model": "a text tower alone; use the complete model",
    "siglip_vision_model": "a vision tower alone; use the complete model",
    "vop_jax_tuned": "tuned parameters alone; use the backbone that it names",
}


def read_size(path: Path) -> ClipSize:
    """Reads the description of a backbone from its `config.json` alone.

    Returns:
        With `eos_id` as stated there and the first family of its `model_type`.

    Raises:
        UserError: it cannot be read, or does not describe a supported model.
    """
    return _read(path)[0]


def _read(path: Path) -> tuple[ClipSize, str]:
    """The description in a `config.json`, and its `model_type`."""
    values = read_json(path)
    where = f"{path} does not describe a CLIP"
    if not isinstance(values, dict):
        raise UserError(f"{where}: it is {shown(values)}, not an object")
    towers = ("vision_config", "text_config", "vision_config_dict", "text_config_dict")
    if "model_type" not in values and not any(name in values for name in towers):
        raise UserError(f"{where}: it has neither a model_type nor a vision_config")
    model_type = values.get("model_type", "clip")
    if model_type == OWN_TYPE:
        return read_own(values, str(path)), model_type
    if not isinstance(model_type, str) or model_type not in FORMS:
        known = isinstance(model_type, str) and _OTHERS.get(model_type)
        what = f", {known}" if known else f"; it must be one of {', '.join(FORMS)}"
        raise UserError(f"{where}: model_type is {shown(model_type)}{what}")
    return read_transformers(values, model_type, str(path)), model_type


def load_size(folder: Path) -> ClipSize:
    """Reads the description of a backbone from all files of its folder.

    The tokenizer decides between families of one `model_type`, and which token ends a
    caption; the preprocessor's file says how frames are made.

    Raises:
        UserError: config.json is missing or not a supported model's, the end token is
            unknown, or the files do not belong together.
    """
    path = folder / CONFIG
    if not os.path.lexists(path):
        if os.path.lexists(folder / "open_clip_config.json"):
            raise UserError(
                f"{path} is missing, as in open_clip's folders; convert it first: "
                f"python -m vop_jax.convert --input={folder} --output=FOLDER"
            )
        raise UserError(
            f"{path} is missing; use a Hugging Face CLIP folder (with {WEIGHTS})"
        )
    size, model_type = _read(path)
    if model_type != OWN_TYPE:
        told = kind_of_tokenizer(folder)
        family = family_of(model_type, told, size.vocabulary)
        size = dataclasses.replace(size, family=family)
    end = caption_ends(folder, size, size.eos_id, str(folder)).end
    frames = stated_frames(folder, size.image_size, size.frames)
    return dataclasses.replace(size, eos_id=end, frames=frames)


def save_size(folder: Path, size: ClipSize) -> None:
    """Writes the `config.json` of a folder, and its `preprocessor_config.json`.

    Frames that are the family's usual ones are not stated.
    """
    _write(folder / CONFIG, _content(size))
    if size.frames != FAMILIES[size.family].frames:
        save_frames(folder, size)


def save_frames(folder: Path, size: ClipSize) -> None:
    """Writes the `preprocessor_config.json` of a folder."""
    _write(folder / FRAMES, frames_file(size.image_size, size.frames))


def _content(size: ClipSize) -> dict[str, Any]:
    """The description in the family's own form, if that can say all of it."""
    model_type = FAMILIES[size.family].model_type
    if model_type in FORMS:
        values = write_transformers(size, model_type)
        try:
            found = read_transformers(values, model_type, CONFIG)
        except UserError:
            return write_own(size)
        same = {"family": size.family, "frames": size.frames, "eos_id": size.eos_id}
        if dataclasses.replace(found, **same) == size:
            return values
    return write_own(size)


def _write(path: Path, values: dict[str, Any]) -> None:
    write_atomically(path, json.dumps(values, indent=2) + "\n")
