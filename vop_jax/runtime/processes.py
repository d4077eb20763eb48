"""Multi-process runs: start-up, agreement, and the loss of a process."""

import ctypes
import os
import re
import signal
import sys
import time
import traceback
import warnings
from collections.abc import Callable
from typing import Any, NoReturn, TypeVar

import jax
import numpy as np
from jax._src.lib import utils  # pyright: ignore[reportPrivateImportUsage]
from jax.experimental import multihost_utils

from data_pipelines.console.arguments import check_address
from data_pipelines.console.errors import UserError
from data_pipelines.console.interrupts import ending_of
from vop_jax.runtime.exit_status import MISTAKE, PROCESS_LOST

T = TypeVar("T")

# The C++ handler that was installed; it must outlive the process.
_on_abort: Any = None
# The exit status if this process is already ending by itself.
_leaving: int | None = None
# Error messages that only the end of another process can have caused.
_PEER_GONE = re.compile(
    r"gloo|nccl|peer|heartbeat|barrier|coordination|unavailable|deadline|preempt", re.I
)


def start(
    coordinator: str | None,
    count: int | None,
    index: int | None,
    *,
    heartbeat_seconds: int = 100,
) -> None:
    """Joins this process to its run; does nothing if it is the only one.

    Call it before anything that needs a device, and after importing TensorFlow, whose
    import resets the log level that hides the messages about a lost process. Without
    arguments JAX detects the cluster itself (Cloud TPU, GKE, SLURM, Open MPI).

    Args:
        coordinator: host:port of process 0.
        count: number of processes; 1 skips the detection of a cluster.
        index: of this process.
        heartbeat_seconds: time without a heartbeat after which a process counts as
            lost, which ends all others.

    Raises:
        UserError: only some of the first three are given, they are inconsistent, or
            the coordinator does not answer.
    """
    # Check the arguments.
    given = (coordinator, count, index)
    if count == 1 and coordinator is None:
        return
    if any(x is not None for x in given) and None in given:
        raise UserError(
            "pass --coordinator=HOST:PORT, --process_count and --process_id together, "
            "or none of them on a Cloud TPU, GKE or SLURM"
        )
    if coordinator is not None:
        assert count is not None
        assert index is not None
        check_address(coordinator, "--coordinator")
        if not 0 <= index < count:
            raise UserError(
                f"--process_id is {index}; it must be from 0 to {count - 1}"
            )
    # Join the cluster; a ValueError about the address means that there is none.
    try:
        with warnings.catch_warnings():
            # On Kubernetes without its Python package JAX warns and detects nothing.
            warnings.simplefilter("ignore")
            jax.distributed.initialize(
                coordinator,
                count,
                index,
                heartbeat_timeout_seconds=heartbeat_seconds,
                cluster_detection_method="deactivate" if coordinator else None,
            )
    except ValueError as error:
        if "coordinator_address should be defined" in str(error):
            return
        raise UserError(f"the processes cannot be joined: {error}") from None
    except RuntimeError as error:
        reason = str(error).splitlines()[0]
        raise UserError(
            f"process 0 at {coordinator} cannot be reached ({reason}); start all "
            "processes within five minutes and check the address"
        ) from None
    if jax.process_count() > 1:
        _answer_aborts()


def _answer_aborts() -> None:
    """Turns the loss of another process into one line and an exit status.

    JAX reacts to it with abort() on a thread of its own, and its callback for that case
    cannot be used from Python, so only the signal SIGABRT is left to handle.
    """

    def on_abort(_: int) -> NoReturn:
        if _leaving is None:
            os.write(
                2, b"error: another process of this run is lost; start all again\n"
            )
        os._exit(PROCESS_LOST if _leaving is None else _leaving)

    # Hides the C++ stack trace. TensorFlow sets the level when it is imported, so this
    # must come later.
    utils.absl_set_min_log_level(4)
    global _on_abort
    _on_abort = ctypes.CFUNCTYPE(None, ctypes.c_int)(on_abort)
    libc = ctypes.CDLL(None)
    libc.signal.argtypes = [ctypes.c_int, ctypes.c_void_p]
    libc.signal.restype = ctypes.c_void_p
    libc.signal(signal.SIGABRT, ctypes.cast(_on_abort, ctypes.c_void_p))


def end_together(function: Callable[[], T], heartbeat_seconds: int) -> T:
    """Calls a function so that its errors end every process of the run.

    Otherwise a failing process would wait for the others before it ends, and they would
    wait for its part of the next collective. A collective fails with a long traceback
    as soon as a connection breaks; within the heartbeat timeout it becomes known
    whether a process is lost, which ends this process with one line.

    Args:
        function: the function to call.
        heartbeat_seconds: see `start`.
    """
    try:
        return function()
    except (Exception, KeyboardInterrupt) as error:
        if jax.process_count() == 1:
            raise
        if isinstance(error, KeyboardInterrupt):
            word, status = ending_of(error)
            print(word, file=sys.stderr, flush=True)
            _leave(status)
        if isinstance(error, UserError):
            print(f"error: {error}", file=sys.stderr, flush=True)
            _leave(MISTAKE)
        if _PEER_GONE.search(str(error)):
            time.sleep(heartbeat_seconds + 5)
        traceback.print_exc()
        _leave(1)


def _leave(status: int) -> NoReturn:
    """Ends this process without waiting for the others.

    Others that are ending for the same reason get a moment to report it.
    """
    global _leaving
    _leaving = status
    time.sleep(2)
    sys.stderr.flush()
    os._exit(status)


def is_main() -> bool:
    """Whether this is process 0, the one that writes files and prints."""
    return jax.process_index() == 0


def one_at_a_time() -> bool:
    """Whether a step must finish before the next one is dispatched.

    Gloo, the collective transport between processes on CPUs, deadlocks if the
    collectives of two steps overlap.
    """
    return jax.process_count() > 1 and jax.default_backend() == "cpu"


def from_main(value: int) -> int:
    """Broadcasts the value of process 0; every process must call it."""
    if jax.process_count() == 1:
        return value
    return int(multihost_utils.broadcast_one_to_all(np.int32(value)))


def largest(value: int) -> int:
    """The maximum over all processes; every process must call it."""
    if jax.process_count() == 1:
        return value
    return int(np.max(multihost_utils.process_allgather(np.int32(value))))


def main_first(function: Callable[[], object]) -> None:
    """Calls a function on process 0 while the others wait.

    Raises:
        UserError: on process 0 its own error; on the others, that process 0 failed.
    """
    mistake = None
    if is_main():
        try:
            function()
        except UserError as error:
            mistake = error
    if from_main(mistake is not None):
        raise mistake or UserError("process 0 has stopped; its own error says why")


def to_host(leaf: Any) -> np.ndarray:
    """Copies a complete array to the host; a collective if it spans processes."""
    if (
        isinstance(leaf, jax.Array)
        and not leaf.is_fully_addressable
        and not leaf.is_fully_replicated
    ):
        return np.asarray(multihost_utils.process_allgather(leaf, tiled=True))
    return np.asarray(leaf)
