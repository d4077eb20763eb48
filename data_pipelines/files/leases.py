"""A lease: mutual exclusion where no lock is visible to all hosts.

Object stores have no locks, and those of a network file system may be visible to one
host only. There the holder writes a record and renews it every few seconds (a
heartbeat). A later process refuses to start while the holder is alive, and takes over
once it is not:

- a holder on the same machine is looked up in its process table, without waiting;
- a record older than `STALE` has expired; its age is the difference between the store's
  modification times of the record and of a file written now, so clocks of two hosts are
  never compared;
- otherwise the record is watched until it is either renewed or stale.

A takeover writes the record, waits, and reads its own token back: of two concurrent
takeovers the last writer wins. A holder that finds another's token was silent for too
long, has lost its lease, and ends.
"""

import os
import sys
import threading
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from data_pipelines.files.owners import LONGEST, Owner

if TYPE_CHECKING:
    from etils import epath

# Seconds: between two heartbeats, without a heartbeat until the lease expires, and
# between taking a lease and relying on it.
BEAT = 5.0
STALE = 60.0
SETTLE = 2.0
_POLL = 0.5


class HeldError(Exception):
    """Another process holds the place.

    Args:
        owner: that process, if known.
    """

    def __init__(self, owner: Owner | None):
        super().__init__("held")
        self.owner = owner


class Lease:
    """A lease that is kept alive from `take` to `release`.

    Args:
        path: the record, on any storage that `epath` reads and writes.
        owner: this process.
        report: called with one line that says why `take` has to wait.
        lost: called on another thread when another process has taken over.
    """

    def __init__(
        self,
        path: "epath.Path",
        owner: Owner,
        report: Callable[[str], Any],
        lost: Callable[[Owner | None], Any],
    ):
        self._path, self._owner = path, owner
        self._report, self._lost = report, lost
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._beat, name="lease", daemon=True)

    def take(self) -> None:
        """Takes the lease and starts its heartbeat.

        Raises:
            HeldError: another process holds it.
            OSError: the place cannot be read or written.
        """
        while True:
            found = self._read()
            if found is not None and not self._is_over(found):
                raise HeldError(Owner.of(self._read() or found))
            # If the record has changed meanwhile, another process was faster.
            if self._read() in (found, None):
                self._write(0)
                time.sleep(SETTLE)
                if self._is_own(self._read()):
                    break
        self._thread.start()

    def release(self) -> None:
        """Gives the lease back."""
        self._over.set()
        if self._thread.is_alive():
            self._thread.join()
        if self._is_own(self._read()):
            self._path.unlink(missing_ok=True)

    def _is_over(self, found: str) -> bool:
        """Whether the holder of this record is gone or the lease has expired."""
        owner = Owner.of(found)
        running = owner.is_running() if owner else None
        if running is not None:
            return not running
        left = STALE - self._age()
        if left > 0:
            self._report(
                f"{self._path.parent} was last used by {owner or 'another process'}; "
                f"waiting up to {left:.0f} s to see whether it still runs"
            )
        end = time.monotonic() + left
        while time.monotonic() < end:
            time.sleep(min(_POLL, BEAT))
            now = self._read()
            if now is None:
                return True
            if now != found:
                return False
        return True

    def _age(self) -> float:
        """Seconds since the record was written, measured by the store's clock alone."""
        probe = self._path.with_name(f"{self._path.name}.{self._owner.token}")
        probe.write_text("")
        try:
            now, then = probe.stat().mtime, self._path.stat().mtime
        except FileNotFoundError:
            return 0.0
        finally:
            probe.unlink(missing_ok=True)
        return 0.0 if now is None or then is None else max(float(now - then), 0.0)

    def _read(self) -> str | None:
        try:
            # TensorFlow opens a file when it is first read, with an error of its own.
            if not self._path.exists():
                return None
            return self._path.read_text()[:LONGEST]
        except UnicodeDecodeError:
            return ""
        except Exception as error:
            if not isinstance(error, FileNotFoundError) and self._path.exists():
                raise
            return None

    def _write(self, beat: int) -> None:
        text = self._owner.record(beat)
        self._path.parent.mkdir(parents=True, exist_ok=True)
        if "://" in str(self._path):
            self._path.write_text(text)
            return
        # On a file system a file is empty for a moment while it is written.
        aside = self._path.with_name(f"{self._path.name}.{self._owner.token}")
        aside.write_text(text)
        aside.replace(self._path)

    def _is_own(self, record: str | None) -> bool:
        owner = Owner.of(record or "")
        return owner is not None and owner.token == self._owner.token

    def _beat(self) -> None:
        beat = 0
        while not self._over.wait(BEAT):
            beat += 1
            try:
                found = self._read()
                if found is not None and not self._is_own(found):
                    self._lost(Owner.of(found))
                    return
                self._write(beat)
            # The store is unreachable for now; the next read of the token shows whether
            # the lease was lost. TensorFlow raises error types of its own.
            except Exception:
                continue


def end_process(name: str, owner: Owner | None) -> None:
    """Ends this process, which has lost its lease: a further write would do damage."""
    who = "another process" if owner is None else owner
    line = (
        f"error: {name} was taken over by {who}, because this process gave no sign of "
        f"life for {STALE:.0f} s; nothing more is written here\n"
    )
    os.write(2, line.encode())
    sys.stdout.flush()
    os._exit(2)
