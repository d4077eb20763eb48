"""Names of models on the Hugging Face hub: `owner/name[/folder][@revision]`."""

import os
import re
from pathlib import Path
from typing import NamedTuple

from data_pipelines.console.errors import UserError
from data_pipelines.console.printable import printable

# No part begins with a dot, so none leads out of its folder.
_PART = r"(?!.*(?:--|\.\.))\w[\w.-]{0,95}"
_REPOSITORY = re.compile(rf"{_PART}/{_PART}", re.A)
_FOLDER = re.compile(r"(?!.*\.\.)\w[\w.-]*(?:/\w[\w.-]*){0,7}", re.A)
_REVISION = re.compile(r"(?!.*(?:\.\.|//))\w[\w./-]{0,199}", re.A)
# A commit: what a branch or a tag stood for when it was looked up, and never changes.
COMMIT = "^[0-9a-f]{40}$"


class HubName(NamedTuple):
    """A model on the hub.

    Attributes:
        repository: `owner/name`.
        folder: the model's folder in it; empty for the repository itself.
        revision: a branch, a tag or a commit; empty for the newest of the main branch.
    """

    repository: str
    folder: str = ""
    revision: str = ""

    def __str__(self) -> str:
        place = "/".join(filter(None, (self.repository, self.folder)))
        return f"{place}@{self.revision}" if self.revision else place

    def file(self, name: str) -> str:
        """The path in the repository of a file of the model."""
        return f"{self.folder}/{name}" if self.folder else name


def is_repository(text: str) -> bool:
    """Whether a text can be `owner/name`."""
    return bool(_REPOSITORY.fullmatch(text))


def parse(text: str) -> HubName | None:
    """The model that a text names, if it has the form of such a name.

    A text of three or more parts whose first one is a folder here is a path that was
    mistyped, and is not asked for elsewhere.

    Args:
        text: of any kind; whether a folder has this name is not looked at.
    """
    place, at, revision = text.partition("@")
    owner, _, rest = place.partition("/")
    name, _, folder = rest.partition("/")
    repository = f"{owner}/{name}"
    if not is_repository(repository) or (at and not _REVISION.fullmatch(revision)):
        return None
    if not folder:
        return None if place.endswith("/") else HubName(repository, "", revision)
    if not _FOLDER.fullmatch(folder) or os.path.lexists(owner):
        return None
    return HubName(repository, folder, revision)


def with_parts(
    name: HubName, folder: str | None = None, revision: str | None = None
) -> HubName:
    """The name with a folder or a revision that were given beside it.

    Raises:
        UserError: one cannot be such, or the name has another already.
    """
    return HubName(
        name.repository,
        _part("subfolder", name.folder, folder, _FOLDER),
        _part("revision", name.revision, revision, _REVISION),
    )


def repository_of(text: object) -> str:
    """Checks the name of a repository to write to.

    Raises:
        UserError: it is none.
    """
    if not isinstance(text, str) or not is_repository(text):
        shown = printable(text[:100]) if isinstance(text, str) else type(text).__name__
        raise UserError(f"{shown} is not the name of a repository; pass owner/name")
    return text


def folder_of(text: object) -> str:
    """Checks the name of a folder in a repository; empty for none.

    Raises:
        UserError: it is none.
    """
    return _part("subfolder", "", text or None, _FOLDER)


def _part(what: str, own: str, given: object, form: re.Pattern) -> str:
    if given is None:
        return own
    if not isinstance(given, str) or not form.fullmatch(given):
        shown = (
            repr(printable(given[:100]))
            if isinstance(given, str)
            else type(given).__name__
        )
        raise UserError(
            f"{what} is {shown}; it is made of letters, digits, '-', '_', '.' and '/'"
        )
    if own not in ("", given):
        raise UserError(f"{what} is {given}, and the model's name says {own}; pass one")
    return given


def origin_of(folder: Path) -> HubName | None:
    """The model on the hub that a folder of the hub's cache holds, with its commit.

    The cache keeps a commit's files in `models--OWNER--NAME/snapshots/COMMIT`.
    """
    parts = Path(os.path.abspath(folder)).parts
    for place, part in enumerate(parts):
        repository = part.removeprefix("models--").replace("--", "/")
        kept, *rest = parts[place + 1 : place + 3] or ("",)
        if part.startswith("models--") and kept == "snapshots" and rest:
            inner = "/".join(parts[place + 3 :])
            if is_repository(repository) and re.match(COMMIT, rest[0]):
                return HubName(repository, inner, rest[0])
    return None
