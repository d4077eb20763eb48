"""Fetches the files of a model on the Hugging Face hub into the hub's own cache.

Each call asks the hub once what a revision holds, says what is fetched, and returns the
folder of exactly that commit. Without a network the cache answers.
"""

import glob
import sys
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from data_pipelines.console.errors import UserError
from data_pipelines.console.terminal import inform
from vop_jax.hub.names import HubName

# The most bytes of a file that describes something, which is a tokenizer's limit too,
# and of one of weights, of which the largest published CLIP has 10 GB.
_LARGEST_TEXT, _LARGEST_WEIGHTS = 256 << 20, 64 << 30
_TEXTS = (".json", ".txt", ".md")

# Chooses from the names of a folder's files those that are needed.
Choice = Callable[[Collection[str]], Sequence[str]]


class Listed(NamedTuple):
    """What a revision holds.

    Attributes:
        commit: what the revision stands for.
        bytes: path in the repository -> size.
        sha256: path -> SHA-256, of the large files alone.
    """

    commit: str
    bytes: Mapping[str, int]
    sha256: Mapping[str, str]

    def in_folder(self, name: HubName) -> dict[str, int]:
        """The files of a model's own folder: name -> size."""
        start = name.file("")
        inner = {
            path.removeprefix(start): size
            for path, size in self.bytes.items()
            if path.startswith(start)
        }
        return {path: size for path, size in inner.items() if "/" not in path}


def fetch(name: HubName, choose: Choice) -> Path:
    """Fetches what is needed of a model.

    Args:
        name: of the model.
        choose: from the names of the files in its folder.

    Returns:
        The folder that holds them, in the hub's cache.

    Raises:
        UserError: there is no such model or revision, nothing of it is chosen, a file
            is too large, or the hub cannot be reached and the cache does not hold it.
    """
    try:
        listed = list_files(name)
    except _UnreachableError as error:
        return _cached(name, choose, str(error))
    held = listed.in_folder(name)
    wanted = choose(held)
    if not wanted:
        raise UserError(
            f"{name} on the Hugging Face hub holds {_inside(listed, choose)}"
        )
    for file in wanted:
        most = _LARGEST_TEXT if file.endswith(_TEXTS) else _LARGEST_WEIGHTS
        if held[file] > most:
            raise UserError(
                f"{name} on the Hugging Face hub: {file} has {held[file]:,} bytes, "
                f"more than {most >> 20:,} MiB; it is not fetched"
            )
    # Imported late: only a name that is not a folder needs the hub.
    from huggingface_hub import snapshot_download, try_to_load_from_cache

    new = {
        file: held[file]
        for file in wanted
        if not isinstance(
            try_to_load_from_cache(
                name.repository, name.file(file), revision=listed.commit
            ),
            str,
        )
    }
    if new:
        files = ", ".join(f"{file} ({size:,} bytes)" for file, size in new.items())
        at = name._replace(revision=listed.commit[:12])
        inform(f"fetching from {at}: {files}")
    quiet_bars()
    try:
        found = snapshot_download(
            name.repository,
            # A branch's commit is noted in the cache under the branch's own name.
            revision=name.revision or None,
            # These are patterns, and a file may be called like one of others.
            allow_patterns=[glob.escape(name.file(file)) for file in wanted],
        )
    # The hub's client raises errors of its own, of its transport and of the system.
    except Exception as error:
        raise _not_fetched(name, reason_of(error)) from None
    if Path(found).name != listed.commit:
        raise UserError(f"{name} has changed while it was fetched; load it again")
    return _inner(found, name)


class NotFetchedError(UserError):
    """Neither the hub nor its cache has given a model."""


class _UnreachableError(Exception):
    """The hub gave no answer; the message says why."""


def list_files(name: HubName) -> Listed:
    """Asks the hub what a revision of a repository holds.

    Raises:
        UserError: there is no such repository or revision, or it may not be read.
        _UnreachableError: there was no answer.
    """
    from huggingface_hub import HfApi
    from huggingface_hub.errors import RepositoryNotFoundError, RevisionNotFoundError

    try:
        info = HfApi().model_info(
            name.repository, revision=name.revision or None, files_metadata=True
        )
    except RevisionNotFoundError:
        raise UserError(
            f"{name.repository} on the Hugging Face hub has no revision "
            f"{name.revision}; pass a branch, a tag or a commit of it"
        ) from None
    # Of a private one the hub says the same, unless one may read it.
    except RepositoryNotFoundError:
        raise _not_fetched(
            name,
            "no such repository, or one that needs a login; hf auth login, or HF_TOKEN",
        ) from None
    except Exception as error:
        raise _UnreachableError(reason_of(error)) from None
    files = info.siblings or []
    return Listed(
        str(info.sha),
        {file.rfilename: file.size or 0 for file in files},
        {file.rfilename: file.lfs.sha256 for file in files if file.lfs is not None},
    )


def listed_now(name: HubName) -> Listed:
    """As `list_files`, where the cache is no answer.

    Raises:
        UserError: there is no such repository or revision, or no answer.
    """
    try:
        return list_files(name)
    except _UnreachableError as error:
        raise UserError(
            f"the Hugging Face hub cannot be asked for {name} ({error})"
        ) from None


def _cached(name: HubName, choose: Choice, reason: str) -> Path:
    """The folder of the cache, without a network."""
    from huggingface_hub import snapshot_download

    try:
        found = snapshot_download(
            name.repository,
            revision=name.revision or None,
            local_files_only=True,
            # Which files it has to hold, `choose` knows.
            allow_patterns=[],
        )
    except Exception:
        raise _not_fetched(name, reason) from None
    folder = _inner(found, name)
    names = [x.name for x in folder.iterdir()] if folder.is_dir() else []
    if not choose(names):
        raise _not_fetched(name, f"{reason}, and the cache holds only a part of it")
    return folder


def _inside(listed: Listed, choose: Choice) -> str:
    """What to say of a folder that holds no model: which others do."""
    folders: dict[str, list[str]] = {}
    for path in listed.bytes:
        folder, _, file = path.rpartition("/")
        folders.setdefault(folder, []).append(file)
    models = sorted(x for x, files in folders.items() if choose(files))
    if not models:
        return "no weights of a known name"
    more = ", ..." if len(models) > 5 else ""
    others = ", ".join(x or "its top" for x in models[:5])
    return f"no model in this folder, but in: {others}{more}; pass subfolder="


def _inner(found: str, name: HubName) -> Path:
    return Path(found) / name.folder


def _not_fetched(name: HubName, reason: str) -> "NotFetchedError":
    return NotFetchedError(
        f"{name} cannot be fetched from the Hugging Face hub ({reason})"
    )


def quiet_bars() -> None:
    """Without a terminal a progress bar would be a line for each of its steps."""
    from huggingface_hub.utils import disable_progress_bars

    if not sys.stderr.isatty():
        disable_progress_bars()


def reason_of(error: Exception) -> str:
    """The first line of an error."""
    text = str(error).strip() or type(error).__name__
    return text.splitlines()[0].rstrip(".")
