"""An index as it is now: from its copy or its tables, read again when they change."""

import threading
from pathlib import Path
from typing import Any

from data_pipelines.console.errors import UserError
from vop_jax.index import snapshot
from vop_jax.index.background import Background
from vop_jax.index.meta import Meta
from vop_jax.index.store import Store
from vop_jax.index.view import View, read_view


class Source:
    """Where an index is read from; several threads may read.

    Args:
        place: an absolute local path, or the URI of an object store.

    Attributes:
        place: as given.
        meta: what the index was made with; None before anything is stored.
        background: what it answers to unrelated sentences; None until it is measured.
    """

    def __init__(self, place: Path | str):
        self.place = place
        self.meta: Meta | None = None
        self.background: Background | None = None
        self._lock = threading.Lock()
        self._store: Store | None = None
        # The index when it was last read, and the version it had then: of the tables,
        # or the stamp of a snapshot.
        self._read: tuple[tuple[int, ...] | str, View] | None = None
        copied = snapshot.read(place)
        if copied:
            made, records, view = copied
            self._read = made, view
            self.take(records)
        else:
            self.take(self.store.records())

    @property
    def store(self) -> Store:
        """The tables, opened when they are needed."""
        if self._store is None:
            self._store = Store(self.place)
        return self._store

    def close(self) -> None:
        """Releases the tables."""
        if self._store is not None:
            self._store.close()

    def take(self, records: dict[str, Any]) -> None:
        """Takes over what the records of the store say.

        Raises:
            UserError: they are not those of an index.
        """
        try:
            self.meta = Meta.of(records)
            self.background = Background.of(records)
        except TypeError as error:
            raise UserError(
                f"{self.place} holds records that are not its own ({error})"
            ) from None

    def forget(self) -> None:
        """Makes the next view be read again."""
        self._read = None

    def view(self, *, table: bool = False) -> View:
        """The index as it is now; read again only if something was stored.

        Args:
            table: whether the table is needed too, which a snapshot has not.

        Raises:
            UserError: it cannot be read, or nothing has been stored.
        """
        with self._lock:
            if self._read and isinstance(self._read[0], str):
                if not table and snapshot.stamp(self.place) == self._read[0]:
                    return self._read[1]
                self._read = None
            made = snapshot.stamp(self.place)
            version = self.store.version()
            if self._read is None or self._read[0] != version:
                records = self.store.records()
                self.take(records)
                if self.meta is None:
                    raise UserError(f"{self.place} holds nothing yet; index again")
                view = read_view(self.store, self.meta.embedding, self.meta.digest)
                self._read = version, view
                snapshot.renew(self.place, made, records, view)
            return self._read[1]
