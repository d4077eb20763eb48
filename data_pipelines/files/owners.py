"""The process that holds a place, recorded so that others can tell whether it runs."""

import dataclasses
import datetime
import json
import os
import secrets
import socket
import time
import zlib
from functools import cache
from pathlib import Path
from typing import Any

# Most characters that are read of a record, and printed of a host's name.
LONGEST = 4096
_LONGEST_NAME = 64


@dataclasses.dataclass(frozen=True)
class Owner:
    """A process that holds a place.

    Attributes:
        host: the machine's name.
        pid: its process id there.
        started: when it took the place, seconds since 1970 by its own clock.
        machine: identifies the machine, its boot and the process namespace; process ids
            are comparable only where this is equal.
        born: when the process was started, in the kernel's ticks; tells it from a later
            process with the same id.
        token: random, so that a process recognises its own record.
    """

    host: str
    pid: int
    started: float
    machine: str
    born: str
    token: str

    @classmethod
    def here(cls) -> "Owner":
        """This process, with a new token."""
        return cls(
            socket.gethostname(),
            os.getpid(),
            time.time(),
            _machine(),
            _born(os.getpid()) or "",
            secrets.token_hex(16),
        )

    @classmethod
    def of(cls, record: str) -> "Owner | None":
        """Parses a record; None if it is not one."""
        try:
            values: Any = json.loads(record[:LONGEST])
            owner = cls(
                host=str(values["host"]),
                pid=int(values["pid"]),
                started=float(values["started"]),
                machine=str(values["machine"]),
                born=str(values["born"]),
                token=str(values["token"]),
            )
            owner.when()
        # Whatever the error is, the text is not a record.
        except Exception:
            return None
        return owner

    def record(self, beat: int = 0) -> str:
        """The owner as one line of text; `beat` makes each heartbeat different."""
        return json.dumps({**dataclasses.asdict(self), "beat": beat})

    def when(self) -> str:
        """When the place was taken, in readable form."""
        moment = datetime.datetime.fromtimestamp(self.started, datetime.UTC)
        return f"{moment:%Y-%m-%d %H:%M:%S} UTC"

    def is_running(self) -> bool | None:
        """Whether the process still runs; None if this machine cannot tell."""
        if not self.machine or self.machine != _machine():
            return None
        return _born(self.pid) == self.born

    def __str__(self) -> str:
        host = "".join(x for x in self.host[:_LONGEST_NAME] if x.isprintable())
        return f"process {self.pid} on {host}, since {self.when()}"


def named(owner: Owner | None) -> str:
    """The owner as part of a sentence; without a record it is "another process"."""
    return "another process" if owner is None else str(owner)


def process_mark() -> str:
    """This process as a part of a file's name, `MACHINE-PID-BORN`, see `is_running`."""
    pid = os.getpid()
    return f"{_machine_mark()}-{pid}-{_own_birth(pid)}"


def is_running(mark: str) -> bool | None:
    """Whether the process of a `process_mark` runs; None if it cannot be told."""
    machine, pid, born = mark.split("-")
    if not _machine() or machine != _machine_mark():
        return None
    return _born(int(pid)) == born


@cache
def _own_birth(pid: int) -> str:
    return _born(pid) or ""


@cache
def _machine_mark() -> str:
    return f"{zlib.crc32(_machine().encode()):08x}"


@cache
def _machine() -> str:
    """Identifies this machine, boot and process namespace; empty if unknown."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot} {os.readlink('/proc/self/ns/pid')}"
    except OSError:
        return ""


def _born(pid: int) -> str | None:
    """The start of a running process, in ticks; None if it does not run."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return None
    # The command's name, in parentheses, may hold spaces and parentheses itself.
    state, *rest = stat[stat.rindex(")") + 2 :].split()
    # An ended process stays listed (as a zombie) until its parent waits for it.
    return None if state in "ZX" else rest[18]
