"""Several processes as one run: start-up, agreement, and the loss of one of them."""

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

from data_pipelines.errors import UserError
from vop_jax.exit_status import MISTAKE, PROCESS_LOST

T = TypeVar("T")

# The C++ handler that was installed; it must outlive the process.
_on_abort: Any = None
# The status with which this process is about to end by itself.
_leaving: int | None = None
# What an error says that only another process's end can have caused.
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
    """Joins this process to its run; does nothing where it is the only one.

    Call before anything that needs a device, and after importing TensorFlow, which
    would bring the messages of a lost process back. Without arguments the cluster is
    found by JAX itself (Cloud TPU, GKE, SLURM, Open MPI).

    Args:
        coordinator: host:port of process 0.
        count: number of processes; 1 looks for no cluster.
        index: of this process.
        heartbeat_seconds: after how long without a sign of life a process counts as
            lost, which ends all others.

    Raises:
        UserError: only a part of the three is given, or they do not fit, or the
            coordinator does not answer.
    """
    given = (coordinator, count, index)
    if count == 1 and coordinator is None:
        return
    if any(x is not None for x in given) and None in given:
        raise UserError(
            "give --coordinator=HOST:PORT, --process_count and --process_id together, "
            "or none of them on a Cloud TPU, GKE or SLURM"
        )
    if coordinator is not None:
        assert count is not None
        assert index is not None
        if not re.fullmatch(r"\S+:\d+", coordinator):
            raise UserError(f"--coordinator is {coordinator!r}; give HOST:PORT")
        if not 0 <= index < count:
            raise UserError(
                f"--process_id is {index}; it must be from 0 to {count - 1}"
            )
    if heartbeat_seconds < 1:
        raise UserError("--heartbeat_seconds must be at least 1")
    try:
        with warnings.catch_warnings():
            # On Kubernetes without its Python package JAX warns and finds nothing.
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
    """Makes the loss of another process one line and a status.

    JAX's answer to it is abort() on a thread of its own, and its own callback for that
    case cannot be used from Python, so the signal is all there is to hold on to.
    """

    def on_abort(_: int) -> NoReturn:
        if _leaving is None:
            os.write(
                2, b"error: another process of this run is lost; start all again\n"
            )
        os._exit(PROCESS_LOST if _leaving is None else _leaving)

    # Without its page of C++. TensorFlow sets the level when it is imported, so this
    # has to come after.
    utils.absl_set_min_log_level(4)
    global _on_abort
    _on_abort = ctypes.CFUNCTYPE(None, ctypes.c_int)(on_abort)
    libc = ctypes.CDLL(None)
    libc.signal.argtypes = [ctypes.c_int, ctypes.c_void_p]
    libc.signal.restype = ctypes.c_void_p
    libc.signal(signal.SIGABRT, ctypes.cast(_on_abort, ctypes.c_void_p))


def end_together(function: Callable[[], T], heartbeat_seconds: int) -> T:
    """Calls a function so that its errors end every process of the run.

    Left alone, a process that fails would wait for the others before it ends, and they
    for its part of the next collective. And a collective fails with a page of traceback
    as soon as a connection breaks; within the heartbeat timeout it is known whether a
    process is lost, and that ends this one with one line.

    Args:
        function: what is called.
        heartbeat_seconds: see `start`.
    """
    try:
        return function()
    except Exception as error:
        if jax.process_count() == 1:
            raise
        if isinstance(error, UserError):
            print(f"error: {error}", file=sys.stderr, flush=True)
            _leave(MISTAKE)
        if _PEER_GONE.search(str(error)):
            time.sleep(heartbeat_seconds + 5)
        traceback.print_exc()
        _leave(1)


def _leave(status: int) -> NoReturn:
    """Ends this process without waiting for the others.

    Those that are about to end for the same reason get a moment to say so.
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
    """Whether a step has to be finished before the next is sent off.

    Gloo, the transport between processes on CPUs, deadlocks when collectives of two
    steps meet.
    """
    return jax.process_count() > 1 and jax.default_backend() == "cpu"


def from_main(value: int) -> int:
    """What process 0 has; every process has to call it."""
    if jax.process_count() == 1:
        return value
    return int(multihost_utils.broadcast_one_to_all(np.int32(value)))


def largest(value: int) -> int:
    """The largest value that any process has; every process has to call it."""
    if jax.process_count() == 1:
        return value
    return int(np.max(multihost_utils.process_allgather(np.int32(value))))


def main_first(function: Callable[[], object]) -> None:
    """Calls a function on process 0 while the others wait.

    Raises:
        UserError: on process 0 its own mistake, on the others that there is one.
    """
    mistake = None
    if is_main():
        try:
            function()
        except UserError as error:
            mistake = error
    if from_main(mistake is not None):
        raise mistake or UserError("process 0 has stopped; its own error says why")


def whole(leaf: Any) -> np.ndarray:
    """An array's value on the host; a collective where processes hold parts of it."""
    if (
        isinstance(leaf, jax.Array)
        and not leaf.is_fully_addressable
        and not leaf.is_fully_replicated
    ):
        return np.asarray(multihost_utils.process_allgather(leaf, tiled=True))
    return np.asarray(leaf)
