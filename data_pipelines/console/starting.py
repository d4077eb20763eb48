"""Ctrl-C and SIGTERM while a command's modules are imported: one line and a status.

A command imports for a second or two before `errors.command` watches over it. Nothing
is under way in that time, so it ends at once.
"""

import os
import signal
import sys
from types import FrameType
from typing import NoReturn

# The handler that Python leaves a signal with -> what a command says, and its status;
# `interrupts`, which says so too, imports more.
_BEFORE = {signal.SIGINT: signal.default_int_handler, signal.SIGTERM: signal.SIG_DFL}
_ENDINGS = {signal.SIGINT: (b"interrupted", 130), signal.SIGTERM: (b"terminated", 143)}
# The packages whose modules are commands.
_PACKAGES = ("vop_jax", "data_pipelines")


def end_when_interrupted() -> None:
    """Makes both signals end the process, if it was started as one of the commands.

    Called by the packages, which are imported before any of their modules. Whoever else
    imports them keeps his own way with Ctrl-C.
    """
    if _started_module().partition(".")[0] not in _PACKAGES:
        return
    for number, handler in _BEFORE.items():
        # SIGINT is ignored where a script has put the command in the background.
        if signal.getsignal(number) is handler:
            signal.signal(number, _end)


def _started_module() -> str:
    """The module that Python was told to run and looks for now; empty if it is none."""
    arguments = getattr(sys, "argv", [])
    # Python puts this there until it has found the module.
    if arguments[:1] != ["-m"]:
        return ""
    return sys.orig_argv[-len(arguments)].removeprefix("-m")


def _end(number: int, frame: FrameType | None) -> NoReturn:
    word, status = _ENDINGS[signal.Signals(number)]
    os.write(2, word + b"\n")
    os._exit(status)
