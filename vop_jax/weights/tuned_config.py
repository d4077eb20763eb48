"""The `config.json` of tuned parameters that stand without their backbone's weights.

It names the backbone: of the hub by a commit, of the same repository, or a demo's. It
holds no path, so it leads nowhere else.
"""

import json
from pathlib import Path
from typing import Annotated, Any, Literal, NotRequired

from annotated_types import Ge
from typing_extensions import TypedDict

from data_pipelines.console.errors import UserError
from data_pipelines.files.json_files import Matches, described, read_json, shown
from vop_jax.hub.names import COMMIT, HubName, is_repository, origin_of
from vop_jax.weights.backbone import file_sha256
from vop_jax.weights.file_names import CONFIG, TUNED
from vop_jax.weights.locate import EMBEDDED, fetch_folder

MODEL_TYPE = "vop_jax_tuned"
FORMAT = 1
# In the place of a name: the backbone that the repository holds at its top. A name of
# `locate.EMBEDDED` is a backbone that comes with the project.
HERE = "."

_Sha256 = Annotated[str, Matches("^[0-9a-f]{64}$")]


class BackboneOf(TypedDict):
    """What the parameters were tuned on."""

    name: Annotated[str, Matches(r"^[A-Za-z0-9_./-]{1,200}$")]
    sha256: _Sha256
    revision: NotRequired[Annotated[str, Matches(COMMIT)]]


class TunedOf(TypedDict):
    """The file of the parameters, `tuned.safetensors`."""

    sha256: _Sha256
    bytes: Annotated[int, Ge(1)]


class TunedConfig(TypedDict):
    """The file."""

    model_type: Literal["vop_jax_tuned"]
    format: int
    backbone: BackboneOf
    tuned: TunedOf


def write_tuned_config(tuned: Path, backbone: BackboneOf) -> str:
    """The content of the file.

    Args:
        tuned: the file of the parameters.
        backbone: what they were tuned on.
    """
    values: dict[str, Any] = {
        "model_type": MODEL_TYPE,
        "library_name": "vop_jax",
        "format": FORMAT,
        "backbone": backbone,
        "tuned": {"sha256": file_sha256(tuned), "bytes": tuned.stat().st_size},
    }
    return json.dumps(values, indent=2) + "\n"


def read_tuned_config(folder: Path) -> TunedConfig | None:
    """Reads the file; None where a folder's `config.json` is another or missing.

    Raises:
        UserError: it is damaged, of another format, or a field is invalid.
    """
    path = folder / CONFIG
    if not path.is_file():
        return None
    values = read_json(path)
    if not isinstance(values, dict) or values.get("model_type") != MODEL_TYPE:
        return None
    if values.get("format") != FORMAT:
        raise UserError(
            f"{path} has format {shown(values.get('format'))}; this version reads "
            f"{FORMAT}"
        )
    config = described(values, TunedConfig, str(path))
    backbone = config["backbone"]
    name, pinned = backbone["name"], "revision" in backbone
    here = (HERE, *EMBEDDED)
    if pinned != is_repository(name) or (not pinned and name not in here):
        raise UserError(
            f"{path}: backbone.name is {shown(name)}; it is owner/name of the Hugging "
            f"Face hub with its revision, or one of {', '.join(map(shown, here))}"
        )
    return config


def check_tuned_file(folder: Path, config: TunedConfig) -> Path:
    """The file of the parameters, which has to be the one that the config states.

    Raises:
        UserError: it is missing or another.
    """
    path, stated = folder / TUNED, config["tuned"]
    if not path.is_file():
        raise UserError(f"{path} is missing, but {CONFIG} beside it states it")
    length = path.stat().st_size
    if length != stated["bytes"]:
        raise UserError(
            f"{path} has {length:,} bytes, but {CONFIG} beside it states "
            f"{stated['bytes']:,}; fetch or save it again"
        )
    found = file_sha256(path)
    if found != stated["sha256"]:
        raise UserError(
            f"{path} has sha256 {found[:12]}..., but {CONFIG} beside it states "
            f"{stated['sha256'][:12]}...; fetch or save it again"
        )
    return path


def backbone_folder(folder: Path, config: TunedConfig) -> Path:
    """The folder of the backbone that a config names; fetched from the hub if need be.

    Args:
        folder: of the config.
        config: as it was read.

    Raises:
        UserError: it cannot be fetched.
    """
    named = config["backbone"]
    if named["name"] in EMBEDDED:
        return EMBEDDED[named["name"]]
    if named["name"] != HERE:
        return fetch_folder(HubName(named["name"], "", named.get("revision", "")))
    origin = origin_of(folder)
    if origin is None:
        return folder.absolute().parent
    if not origin.folder:
        raise UserError(f"{folder / CONFIG} names itself as its backbone")
    return fetch_folder(origin._replace(folder=""))
