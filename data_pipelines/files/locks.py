"""Mutual exclusion of processes: a run's folder, an output, a preparation.

On a local file system the kernel's lock on a file decides. The kernel releases it when
its process ends, however it ends, so a file that is left behind blocks nobody. On a
network file system a lease decides as well; in an object store, a lease alone (see
`leases`).
"""

import contextlib
import errno
import fcntl
import functools
import os
import re
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from data_pipelines.console.errors import UserError
from data_pipelines.console.terminal import warn
from data_pipelines.files.leases import HeldError, Lease, end_process
from data_pipelines.files.owners import LONGEST, Owner, named

if TYPE_CHECKING:
    from etils import epath

# File systems that only this machine sees; any other may be shared with other hosts.
_LOCAL = re.compile(
    "apfs|bcachefs|btrfs|devtmpfs|exfat|ext[234]|f2fs|hfs|jfs|ntfs3?|overlay|ramfs|"
    "reiserfs|rootfs|squashfs|tmpfs|ubifs|vfat|xfs|zfs"
)
_POLL = 0.5
# Attempts to create a lock file that vanishes as soon as it is created.
_TRIES = 100


@contextlib.contextmanager
def exclusive(
    path: "epath.PathLike",
    name: object,
    *,
    doing: str = "is in use",
    advice: str,
    wait: bool = False,
) -> Iterator[None]:
    """Excludes every other process from a place while the block runs.

    Args:
        path: the lock file, in or beside the place; it and the folders created for it
            are removed at the end, unless they hold other files.
        name: what is locked, for the message.
        doing: what the holder does with it, for the message.
        advice: what to do, for the message; if the place is held, besides waiting.
        wait: whether to wait for the holder instead of refusing.

    Raises:
        UserError: another process holds the place (its host, process id and start are
            named), or no lock file can be created there.
    """
    # Imported late, for a fast start of commands that lock nothing.
    from etils import epath

    taken = _leased if "://" in str(path) else _locked
    told = False
    while True:
        with contextlib.ExitStack() as stack:
            try:
                stack.enter_context(taken(epath.Path(path), str(name)))
            except HeldError as error:
                line = f"{name} {doing} by {named(error.owner)}"
                if not wait:
                    raise UserError(f"{line}; wait for it, or {advice}") from None
                if not told:
                    warn(f"{line}; waiting for it")
                told = True
            except OSError as error:
                reason = error.strerror or " ".join(str(error).split())[:200]
                raise UserError(
                    f"{name} cannot be written ({reason}); {advice}"
                ) from None
            else:
                yield
                return
        time.sleep(_POLL)


@contextlib.contextmanager
def _leased(path: "epath.Path", name: str) -> Iterator[None]:
    lease = Lease(path, Owner.here(), warn, functools.partial(end_process, name))
    try:
        lease.take()
    except (HeldError, OSError):
        raise
    # Object stores raise other error types: TensorFlow's, or a missing package.
    except Exception as error:
        raise OSError(str(error)) from error
    try:
        yield
    finally:
        # A lease that cannot be released now expires within a minute.
        with contextlib.suppress(Exception):
            lease.release()


@contextlib.contextmanager
def _locked(path: "epath.Path", name: str) -> Iterator[None]:
    local = Path(path)
    with _folders(local.parent), contextlib.ExitStack() as stack:
        descriptor = _open_locked(local)
        stack.callback(os.close, descriptor)
        # Removed while the lock is still held; `_open_locked` recognises such a file.
        stack.callback(local.unlink, missing_ok=True)
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, Owner.here().record().encode(), 0)
        if not is_local(local):
            stack.enter_context(_leased(path.with_name(f"{path.name}.lease"), name))
        yield


def _open_locked(path: Path) -> int:
    """Opens and locks the lock file.

    Raises:
        HeldError: another process has locked it.
        OSError: it cannot be created.
    """
    reason = ""
    for _ in range(_TRIES):
        try:
            # Never through a link, since the content is overwritten.
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o666)
        except FileNotFoundError:
            # The previous holder may have removed the folder as well.
            reason = f"no file can be created in {path.parent}"
            path.parent.mkdir(parents=True, exist_ok=True)
            continue
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            record = os.pread(descriptor, LONGEST, 0)
            os.close(descriptor)
            raise HeldError(Owner.of(record.decode(errors="replace"))) from None
        except OSError:
            # A network file system without locks: the lease alone decides.
            if is_local(path):
                path.unlink(missing_ok=True)
                os.close(descriptor)
                raise
        # The previous holder may have removed the file between the two calls.
        if os.fstat(descriptor).st_nlink:
            return descriptor
        reason = "its lock file vanishes"
        os.close(descriptor)
    raise FileNotFoundError(errno.ENOENT, reason)


@contextlib.contextmanager
def _folders(folder: Path) -> Iterator[None]:
    """Creates a folder and its parents; removes the empty ones of them at the end."""
    try:
        made = [x for x in (folder, *folder.parents) if not x.exists()]
        folder.mkdir(parents=True, exist_ok=True)
    # The name holds a null byte.
    except ValueError as error:
        raise OSError(str(error)) from None
    # A file is where a folder is wanted.
    except FileExistsError:
        raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR)) from None
    try:
        yield
    finally:
        with contextlib.suppress(OSError):
            for empty in made:
                empty.rmdir()


def is_local(path: Path) -> bool:
    """Whether a path is on a file system that no other host can see.

    The kernel's mount table gives the type of the file system; without such a table the
    path counts as local.
    """
    try:
        lines = Path("/proc/self/mounts").read_text(errors="replace").splitlines()
    except OSError:
        return True
    place, best, kind = str(path.resolve()), "", ""
    for line in lines:
        _, point, found, *_ = line.split(" ")
        # A space in a name is written as an octal escape.
        point = re.sub(r"\\(\d{3})", lambda match: chr(int(match[1], 8)), point)
        inside = place == point or place.startswith(point.rstrip("/") + "/")
        # The last of several mounts at one mount point hides the earlier ones.
        if inside and len(point) >= len(best):
            best, kind = point, found
    return bool(_LOCAL.fullmatch(kind))
