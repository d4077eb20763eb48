"""Writes a tuned model into a folder, or pushes it to the Hugging Face hub.

The tuned parameters are written, and the name of their backbone. Only a backbone that
nobody else can fetch, one of a folder of this machine, is written with them.
"""

import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from data_pipelines.console.errors import UserError
from vop_jax.hub.fetching import Listed, listed_now
from vop_jax.hub.names import folder_of, origin_of, parse, repository_of
from vop_jax.hub.pushing import open_repository, push
from vop_jax.model.clip.families import HUB_NAMES
from vop_jax.model.clip.sizes import TOWERS
from vop_jax.model.tree_paths import paths
from vop_jax.runtime.files import write_atomically
from vop_jax.runtime.new_folder import new_folder
from vop_jax.sharing.card import Card, collection_card
from vop_jax.sharing.results import read_results
from vop_jax.surface.inputs import path_of
from vop_jax.weights.backbone import Backbone, weights_sha256
from vop_jax.weights.file_names import (
    CONFIG,
    FILE_NAMES,
    TOKENIZER_FILES,
    TUNED,
    WEIGHTS,
)
from vop_jax.weights.locate import EMBEDDED
from vop_jax.weights.preprocessing import FRAMES
from vop_jax.weights.special_tokens import write_tokenizer_class
from vop_jax.weights.tuned import save_tuned
from vop_jax.weights.tuned_config import (
    HERE,
    BackboneOf,
    write_tuned_config,
)

README = "README.md"


class Shareable:
    """What a model with tuned parameters can be written as; see `vop_jax.Model`."""

    backbone: Backbone
    params: dict[str, Any]
    variables: dict[str, Any]
    metadata: dict[str, Any]
    num_frames: int
    run: str

    def save_pretrained(
        self,
        folder: str | Path,
        *,
        subfolder: str = "",
        backbone: str | None = None,
        results: str | Path | Sequence[str | Path] | None = None,
        license: str | None = None,
    ) -> None:
        """Writes the tuned parameters, what they belong to, and a model card.

        `vop_jax.load(folder)` gives the same model again, to the last bit.

        Args:
            folder: a new one, or one of models beside each other if `subfolder` is set.
            subfolder: a folder in it, for one model of several on one backbone.
            backbone: the name on the Hugging Face hub of a backbone that was loaded
                from a folder; by default such a backbone is written as well. One that
                came from the hub, or with the project, is only named.
            results: `results.json` of a run, or files that `evaluate --json` wrote,
                whose intervals the card then has; by default those of the run that the
                model was loaded from.
            license: of the tuned parameters, as the hub abbreviates it (`apache-2.0`).

        Raises:
            UserError: nothing was tuned, a tower was not loaded, the folder holds
                something else, or the named backbone has other weights.
        """
        place = Path(path_of(folder, "folder"))
        shared = _prepare(self, subfolder, backbone, results, license, place.name)
        if not shared.folder:
            with new_folder(place, "folder") as partial:
                _write(self, shared, partial)
            return
        if shared.carried and not (place / CONFIG).exists():
            with new_folder(place, "folder") as partial:
                _copy_backbone(self.backbone, partial)
        elif shared.carried:
            _check_same(_sha256_in(place), self.backbone.sha256, str(place))
        place.mkdir(parents=True, exist_ok=True)
        with new_folder(place / shared.folder, "subfolder") as partial:
            _write(self, shared, partial)
        kept = sorted(x.parent.name for x in place.glob(f"*/{TUNED}"))
        write_atomically(place / README, collection_card(shared.card, kept))

    def push_to_hub(
        self,
        repository: str,
        *,
        subfolder: str = "",
        backbone: str | None = None,
        results: str | Path | Sequence[str | Path] | None = None,
        license: str | None = None,
        private: bool | None = None,
    ) -> str:
        """Pushes what `save_pretrained` writes to the Hugging Face hub, in one commit.

        It uses the login of `hf auth login`, or the token in `HF_TOKEN`.

        Args:
            repository: `owner/name`; made unless it is there.
            subfolder: a folder in it, for one model of several on one backbone.
            backbone: see `save_pretrained`.
            results: see `save_pretrained`.
            license: see `save_pretrained`.
            private: whether a new repository is; by default what its owner has set.

        Returns:
            The commit, which `vop_jax.load(repository, revision=...)` takes.

        Raises:
            UserError: as of `save_pretrained`, or the hub cannot be reached, or the
                repository may not be written.
        """
        name = repository_of(repository)
        shared = _prepare(self, subfolder, backbone, results, license, name)
        there = open_repository(name, private)
        with tempfile.TemporaryDirectory() as made:
            root = Path(made)
            target = root / shared.folder
            target.mkdir(exist_ok=True)
            _write(self, shared, target)
            if shared.folder:
                kept = {x.partition("/")[0] for x in there.bytes if _is_model(x)}
                kept.add(shared.folder)
                text = collection_card(shared.card, sorted(kept))
                (root / README).write_text(text)
                if shared.carried and CONFIG in there.bytes:
                    stated = there.sha256.get(WEIGHTS, "")
                    _check_same(stated, self.backbone.sha256, name)
                elif shared.carried:
                    _copy_backbone(self.backbone, root)
            what = f"{self.metadata['method']} {shared.folder}".rstrip()
            return push(root, name, f"Add {what}")


class _Shared(NamedTuple):
    """What is written, decided before anything is.

    Attributes:
        leaves: the tuned parameters by path.
        metadata: of their file.
        named: the backbone's place in `config.json`.
        carried: whether its weights are written as well.
        folder: in the repository; empty for none.
        card: what the model card says.
    """

    leaves: dict[str, np.ndarray]
    metadata: dict[str, Any]
    named: BackboneOf
    carried: bool
    folder: str
    card: Card


def _prepare(
    model: Shareable,
    subfolder: str,
    backbone: str | None,
    results: Any,
    license: str | None,
    name: str,
) -> _Shared:
    folder = folder_of(subfolder)
    if "/" in folder:
        raise UserError(f"subfolder is {folder}; pass one folder's name")
    absent = [tower for tower in TOWERS if tower not in model.params]
    if absent:
        raise UserError(
            f"the model was loaded without its {absent[0]} tower; load both to save it"
        )
    bare = paths({"params": model.params})
    # What was not tuned is shared with the backbone, the same array.
    leaves = {
        path: np.asarray(value)
        for path, value in paths(model.variables).items()
        if value is not bare.get(path)
    }
    if not leaves:
        raise UserError(
            "the model has no tuned parameters to save; load a run, or pass tuned=FILE"
        )
    named, carried = _named(model.backbone, backbone)
    metadata = {k: v for k, v in model.metadata.items() if k != "format"}
    metadata |= {"backbone_sha256": model.backbone.sha256}
    metadata |= {"num_frames": model.num_frames}
    card = Card(
        name=name,
        folder=folder,
        backbone=named,
        carried=carried,
        method=metadata["method"],
        num_frames=model.num_frames,
        parameters=sum(value.size for value in leaves.values()),
        license=license,
        results=read_results(results, model.run),
        run=model.run,
    )
    card.check()
    return _Shared(leaves, metadata, named, carried, folder, card)


def _named(backbone: Backbone, given: str | None) -> tuple[BackboneOf, bool]:
    """How a backbone is named, and whether its weights have to be written."""
    sha256 = backbone.sha256
    if given is not None:
        return _on_hub(given, sha256), False
    for name, folder in EMBEDDED.items():
        if backbone.folder.resolve() == folder.resolve():
            return {"name": name, "sha256": sha256}, False
    origin = origin_of(backbone.folder)
    # A folder of a repository is not a place that `config.json` can name.
    if origin is None or origin.folder:
        return {"name": HERE, "sha256": sha256}, True
    name, revision = origin.repository, origin.revision
    return {"name": name, "revision": revision, "sha256": sha256}, False


def _on_hub(given: str, sha256: str) -> BackboneOf:
    """A backbone by the name that the user gives, which is looked up."""
    found = parse(HUB_NAMES.get(given, given)) if isinstance(given, str) else None
    if found is None or found.folder:
        raise UserError(
            f"backbone is {given!r}; pass its name on the Hugging Face hub, owner/name"
        )
    listed = listed_now(found)
    _check_same(_stated(listed), sha256, str(found))
    name = {"name": found.repository, "revision": listed.commit}
    return BackboneOf(**name, sha256=sha256)


def _stated(listed: Listed) -> str:
    """The SHA-256 that the hub states of a repository's weights."""
    held = next((x for x in FILE_NAMES if x in listed.bytes), "")
    return listed.sha256.get(held, "")


def _check_same(found: str, own: str, where: str) -> None:
    if found != own:
        stated = f"sha256 {found[:12]}..." if found else "weights of no known sha256"
        raise UserError(
            f"{where} holds another backbone ({stated}, this model's is "
            f"{own[:12]}...); use another place, or the backbone of that name"
        )


def _sha256_in(folder: Path) -> str:
    path = folder / WEIGHTS
    return weights_sha256([path]) if path.is_file() else ""


def _is_model(path: str) -> bool:
    return path.count("/") == 1 and path.endswith(f"/{TUNED}")


def _write(model: Shareable, shared: _Shared, folder: Path) -> None:
    """Writes the files of one model into an empty folder."""
    size = model.backbone.size
    save_tuned(folder / TUNED, shared.leaves, size, shared.metadata)
    if shared.carried and not shared.folder:
        _copy_backbone(model.backbone, folder)
    else:
        text = write_tuned_config(folder / TUNED, shared.named)
        (folder / CONFIG).write_text(text)
    (folder / README).write_text(shared.card.text())


def _copy_backbone(backbone: Backbone, target: Path) -> None:
    """Copies the files of a backbone that are read."""
    source = backbone.folder
    held = [x for x in FILE_NAMES if (source / x).is_file()]
    if held[0] != WEIGHTS:
        raise UserError(
            f"{source / held[0]}: only weights in one {WEIGHTS} are written with tuned "
            f"parameters; convert it first (python -m vop_jax.convert --input={source} "
            "--output=FOLDER), or pass backbone= its name on the Hugging Face hub"
        )
    for name in (CONFIG, WEIGHTS, FRAMES, *TOKENIZER_FILES):
        if (source / name).is_file():
            shutil.copyfile(source / name, target / name)
    write_tokenizer_class(target, backbone.size)
