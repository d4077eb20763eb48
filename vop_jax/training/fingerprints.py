"""The sha256 of a checkpoint's arrays, and the notes that hold them."""

import concurrent.futures
import dataclasses
import hashlib
import json
from typing import Annotated, Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from annotated_types import Ge
from etils import epath
from orbax.checkpoint import future as orbax_future
from typing_extensions import TypedDict

from data_pipelines.console.errors import UserError
from data_pipelines.files.json_files import described, parse_json
from vop_jax.runtime.processes import is_main


class Notes(TypedDict):
    """What is kept beside a checkpoint's arrays."""

    step: Annotated[int, Ge(0)]
    data: dict[str, Any]
    sha256: dict[str, str]
    kinds: dict[str, str]


class DamageError(Exception):
    """What a checkpoint holds is not what was saved."""


def _name(path: Any) -> str:
    return jax.tree_util.keystr(path, simple=True, separator="/")


def _kind(leaf: Any) -> str:
    """Dtype and shape; Orbax would cast another dtype without an error."""
    return f"{leaf.dtype}{list(leaf.shape)}"


def fingerprints(arrays: dict[str, np.ndarray]) -> dict[str, str]:
    """The sha256 of each array's bytes, dtype and shape."""
    found = {}
    for name, value in arrays.items():
        digest = hashlib.sha256(f"{value.dtype}{value.shape}".encode())
        digest.update(np.ascontiguousarray(value).reshape(-1).view(np.uint8).data)
        found[name] = digest.hexdigest()
    return found


def seal(notes: dict[str, Any]) -> str:
    """The notes as text, preceded by the text's own sha256."""
    text = json.dumps(notes)
    return f"{hashlib.sha256(text.encode()).hexdigest()}\n{text}"


def open_seal(sealed: str) -> dict[str, Any]:
    """The notes in a text that `seal` wrote.

    Raises:
        DamageError: they are not what was written.
    """
    digest, _, text = sealed.partition("\n")
    if hashlib.sha256(text.encode()).hexdigest() != digest:
        raise DamageError("its notes have changed")
    try:
        return {**described(parse_json(text, "its notes", finite=False), Notes, "it")}
    except UserError as error:
        raise DamageError(str(error)) from None


class _NotesHandler(ocp.AsyncCheckpointHandler):
    """Writes a text that is still being computed when the save begins."""

    _FILE = "notes"

    async def async_save(self, directory: epath.Path, args: "_SaveNotes"):
        async def write() -> None:
            text = args.text.result()
            if is_main():
                (directory / self._FILE).write_text(text)

        # The future waits until Orbax has created the directory.
        return [orbax_future.CommitFutureAwaitingContractedSignals(write())]

    def save(self, directory: epath.Path, args: "_SaveNotes") -> None:
        raise NotImplementedError("only saved in the background")

    def restore(self, directory: epath.Path, args: "_RestoreNotes") -> str:
        return (directory / self._FILE).read_text()


@ocp.args.register_with_handler(_NotesHandler, for_save=True)
@dataclasses.dataclass
class _SaveNotes(ocp.args.CheckpointArgs):
    text: "concurrent.futures.Future[str]"


@ocp.args.register_with_handler(_NotesHandler, for_restore=True)
@dataclasses.dataclass
class _RestoreNotes(ocp.args.CheckpointArgs):
    pass
