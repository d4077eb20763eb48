"""Locates a backbone: a folder, an embedded one, or a name on the Hugging Face hub."""

import os
import re
from pathlib import Path

from data_pipelines.console.arguments import check_local
from data_pipelines.console.errors import UserError
from vop_jax.model.clip.families import HUB_NAMES
from vop_jax.weights.file_names import FILE_NAMES

_DEMO = Path(__file__).parents[1] / "demo"
# The backbones that come with the project, of the embedded demo, by name.
EMBEDDED = {
    "demo": _DEMO / "backbone",
    "demo_siglip": _DEMO / "backbone_siglip",
}
# The demo's usual one.
BACKBONE = EMBEDDED["demo"]


def configured_folder(backbone: str) -> Path:
    """Finds the folder of a configuration's backbone, where a name precedes a path.

    Raises:
        UserError: as `find_folder`.
    """
    return EMBEDDED.get(backbone) or find_folder(backbone)


def find_folder(name: str | Path) -> Path:
    """Finds the folder of a backbone; downloads it if it is a hub name.

    Args:
        name: a path, a name of `EMBEDDED` where no path is called so, a name on the
            Hugging Face hub, or one of `families.HUB_NAMES`.

    Raises:
        UserError: it is a URL, or neither a folder nor a model on the hub.
    """
    check_local(str(name))
    folder = Path(os.path.expanduser(name))
    # `Path.exists` raises an error for a name that is too long.
    exists = os.path.lexists(folder)
    if str(name) in EMBEDDED and not exists:
        return EMBEDDED[str(name)]
    hub_name = HUB_NAMES.get(str(name), str(name))
    if exists or not re.fullmatch(r"[\w.-]+/[\w.-]+", hub_name):
        return folder
    # Imported late: only a name that is not a folder needs the hub.
    from huggingface_hub import snapshot_download

    wanted = ["*config.json", "tokenizer.json", "vocab.json", "merges.txt"]
    wanted += ["special_tokens_map.json", "added_tokens.json"]
    try:
        for weights in (["*.safetensors", "*.safetensors.index.json"], ["*.bin"]):
            found = snapshot_download(hub_name, allow_patterns=wanted + weights)
            if any((Path(found) / x).is_file() for x in FILE_NAMES):
                return Path(found)
    # The hub's client raises errors of its own, of its transport and of the system.
    except Exception as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise UserError(
            f"{name} is not a folder, and {hub_name} cannot be fetched from the "
            f"Hugging Face hub ({reason.rstrip('.')}); without a network pass a folder "
            "that holds it, or convert OpenAI's file: python -m vop_jax.convert "
            "--input=FILE.pt --output=FOLDER"
        ) from None
    raise UserError(
        f"{hub_name} on the Hugging Face hub holds no weights of a known name"
    )
