"""Locates a backbone: a folder, an embedded one, or a name on the Hugging Face hub."""

import os
import re
from collections.abc import Collection
from pathlib import Path

from data_pipelines.console.arguments import check_local
from data_pipelines.console.errors import UserError
from data_pipelines.console.names import did_you_mean
from data_pipelines.console.printable import printable
from vop_jax.hub.fetching import NotFetchedError, fetch
from vop_jax.hub.names import HubName, parse, with_parts
from vop_jax.model.clip.families import HUB_NAMES
from vop_jax.runtime.run_folder import RunFolder
from vop_jax.weights.file_names import DESCRIPTIONS, FILE_NAMES, TOKENIZER_FILES, TUNED

_DEMO = Path(__file__).parents[1] / "demo"
# The backbones that come with the project, of the embedded demo, by name.
EMBEDDED = {
    "demo": _DEMO / "backbone",
    "demo_siglip": _DEMO / "backbone_siglip",
}
# The demo's usual one.
BACKBONE = EMBEDDED["demo"]
# Endings of files that hold weights.
_WEIGHTS = (".bin", ".npz", ".pt", ".pth", ".safetensors")
_SHARD = r"-[0-9]+-of-[0-9]+"


def configured_folder(backbone: str) -> Path:
    """Finds the folder of a configuration's backbone, where a name precedes a path.

    Raises:
        UserError: as `find_folder`.
    """
    return EMBEDDED.get(backbone) or find_folder(backbone)


def find_folder(
    name: str | Path, revision: str | None = None, subfolder: str | None = None
) -> Path:
    """Finds the folder of a backbone; downloads it if it is a hub name.

    Args:
        name: a path, a name of `EMBEDDED` where no path is called so, a name on the
            Hugging Face hub, or one of `families.HUB_NAMES`.
        revision: of the hub, beside a name.
        subfolder: of the repository on the hub, beside a name.

    Raises:
        UserError: it is a URL, neither a folder nor a model on the hub, or a misspelt
            short name.
    """
    check_local(str(name))
    folder = Path(os.path.expanduser(name))
    # `Path.exists` raises an error for a name that is too long.
    exists = os.path.lexists(folder)
    local = exists or str(name) in EMBEDDED
    found = None if local else parse(HUB_NAMES.get(str(name), str(name)))
    for what, given in (("revision", revision), ("subfolder", subfolder)):
        if found is None and given is not None:
            kind = "is not a name on the hub"
            if local:
                kind = "is here" if exists else "comes with the project"
            raise UserError(
                f"{what}={given!r} belongs to a model on the hub, but {name} {kind}"
            )
    if found is None:
        if not local and (hint := _short_names_like(str(name))):
            raise UserError(f"{printable(str(name)[:200])} does not exist{hint}")
        return folder if exists or not local else EMBEDDED[str(name)]
    named = with_parts(found, subfolder, revision)
    try:
        return fetch_folder(named)
    except NotFetchedError as error:
        # Of three parts or more it may as well be a path that was mistyped.
        lacks = "does not exist" if found.folder else "is not a folder"
        raise UserError(
            f"{name} {lacks}, and {error}; without a network pass a folder that holds "
            "it, or convert OpenAI's file: python -m vop_jax.convert --input=FILE.pt "
            "--output=FOLDER"
        ) from None


def _short_names_like(name: str) -> str:
    """A question for the short names that a name is close to; empty for a path."""
    known = {*EMBEDDED, *HUB_NAMES}
    return "" if os.sep in name else did_you_mean(name, sorted(known))


def fetch_folder(name: HubName) -> Path:
    """Fetches the files of a model that are read.

    Raises:
        UserError: it cannot be fetched; see `hub.fetching.fetch`.
    """
    return fetch(name, _needed)


def _needed(names: Collection[str]) -> list[str]:
    """Chooses the weights that are preferred, what was tuned, and what describes them.

    Returns:
        Nothing, where there are neither weights nor tuned parameters.
    """
    found = [x for x in FILE_NAMES if x in names][:1]
    for index in [x for x in found if x.endswith(".index.json")]:
        stem, ending = index.removesuffix(".index.json").rsplit(".", 1)
        shard = re.compile(rf"{re.escape(stem)}{_SHARD}\.{ending}")
        found += sorted(x for x in names if shard.fullmatch(x))
    found += [x for x in (TUNED,) if x in names]
    if not found:
        return []
    described = [x for x in (*DESCRIPTIONS, *TOKENIZER_FILES) if x in names]
    return [*sorted(described), *found]


def files_of(place: str | Path) -> list[Path]:
    """What is read of a run or a CLIP, here: files, and folders as a whole.

    Args:
        place: as of `find_folder`. Of a name on the hub there is nothing here.

    Returns:
        Paths, whether or not there is something: a file that comes to be there would
        be read.

    Raises:
        UserError: the configuration of a run is damaged.
    """
    found = _files_in(place)
    run = RunFolder(place) if Path(os.path.expanduser(place)).is_dir() else None
    if run and run.is_run():
        found += _files_in(run.read_config().get("backbone", place))
    return found


def _files_in(place: str | Path) -> list[Path]:
    folder = EMBEDDED.get(str(place), Path(os.path.expanduser(place)))
    if not os.path.isdir(folder):
        return [folder] if os.path.isfile(folder) else []
    run = RunFolder(folder)
    found = [run.config, run.tuned, run.results, run.metrics, run.report.parent]
    found += [run.checkpoints, run.tensorboard]
    names = {*FILE_NAMES, *DESCRIPTIONS, *TOKENIZER_FILES}
    # Shards, and files of other names that hold weights.
    names |= {x.name for x in folder.iterdir() if x.suffix in _WEIGHTS}
    return [*map(Path, found), *(folder / x for x in sorted(names))]
