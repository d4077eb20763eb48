"""An output folder that appears complete or not at all, written by one process."""

import contextlib
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

from data_pipelines.console.errors import UserError
from data_pipelines.files.locks import exclusive
from vop_jax.runtime.files import is_full


@contextlib.contextmanager
def new_folder(output: Path, flag: str = "--output") -> Iterator[Path]:
    """A folder to write into, which is renamed to `output` when the block succeeds.

    Args:
        output: the final path; nothing but an empty folder may exist there.
        flag: what names it, for messages.

    Yields:
        An empty temporary folder beside it.

    Raises:
        UserError: the path is taken, another process is writing it, or it cannot be
            written, for example because the disk is full. What was written is removed.
    """
    # Resolved, so that two names of one folder share one lock.
    try:
        output = output.expanduser().resolve()
    # A folder that may not be searched, a null byte, or the home of nobody.
    except (OSError, ValueError, RuntimeError) as error:
        raise UserError(f"{flag} cannot be used ({error})") from None
    _check_free(output, flag)
    partial = output.with_name(f".{output.name}.partial")
    with exclusive(
        output.with_name(f".{output.name}.lock"),
        output,
        doing="is being written",
        advice=f"use another {flag}",
    ):
        # Another process may have finished it meanwhile.
        _check_free(output, flag)
        try:
            # Left by a process that was killed.
            shutil.rmtree(partial, ignore_errors=True)
            partial.mkdir()
            yield partial
            if output.is_dir():
                output.rmdir()
            os.replace(partial, output)
        except Exception as error:
            if isinstance(error, UserError) or not (
                isinstance(error, OSError) or is_full(error)
            ):
                raise
            raise UserError(_reason(output, error)) from error
        finally:
            shutil.rmtree(partial, ignore_errors=True)


def _check_free(output: Path, flag: str) -> None:
    try:
        free = not output.exists() or (output.is_dir() and not any(output.iterdir()))
    except OSError as error:
        raise UserError(f"{flag} cannot be used ({error})") from None
    if not free:
        raise UserError(f"{output} exists already; use another {flag}")


def _reason(output: Path, error: Exception) -> str:
    if is_full(error):
        return (
            f"no room is left for {output}; make some and run the same command again, "
            "nothing of it was kept"
        )
    # The error itself names the file that cannot be read.
    text = " ".join(str(error).split())[:300]
    return f"{output} was not written ({text})"
