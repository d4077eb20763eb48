"""Prints the commands of the project, or runs one of them.

    vop-jax [COMMAND [ARGUMENTS]]
    python -m vop_jax [COMMAND [ARGUMENTS]]

Each command is also a module of its own, started with `python -m`.
"""

import ast
import runpy
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import vop_jax
from data_pipelines.console.errors import UserError, command
from data_pipelines.console.names import did_you_mean, shortened
from vop_jax.runtime.commands import COMMANDS, source_of

# Flags that make a command of that name another one.
_OWN_DATA = ("videos", "captions")
# What a command that needs a configuration uses where none is given.
_CONFIG = Path(__file__).parent / "configs" / "vop.py"
_CONFIGURED = ("train", "pod-plan")
_START = """\
vop_jax: text-video retrieval by prompt-tuning a frozen CLIP

start with
  vop-jax train
which trains the embedded demo in a few minutes and writes
runs/demo_vop_fc/report/index.html; nothing needs to be downloaded.

commands, each with --help; vop-jax COMMAND is python -m MODULE:"""
_END = """
Python: vop_jax.load(FOLDER), vop_jax.retrieval_metrics(SIMILARITY); see README.md"""


def overview() -> Iterator[str]:
    """The lines that are printed: what to run first, and one for each command."""
    yield _START
    wide, wider = (max(map(len, x)) for x in (COMMANDS, COMMANDS.values()))
    for name, module in COMMANDS.items():
        yield f"  {name:<{wide}}  {module:<{wider}}  {purpose(module)}"
    yield _END


def purpose(module: str) -> str:
    """The first line of a module's docstring; the module is not imported."""
    docstring = ast.get_docstring(source_of(module))
    return (docstring or "").partition("\n")[0].rstrip(".")


def arguments_of(name: str, given: Sequence[str]) -> list[str]:
    """A command's arguments, the installed configuration among them if it needs it."""
    named = any(x.lstrip("-").partition("=")[0] == "config" for x in given)
    if name in _CONFIGURED and not named:
        return [f"--config={_CONFIG}", *given]
    return list(given)


def name_of(first: str, given: Sequence[str]) -> str:
    """The command that is meant by a name with its arguments."""
    name = first.replace("_", "-")
    flags = {x.lstrip("-").partition("=")[0] for x in given if x.startswith("-")}
    other = f"{name} --videos"
    return other if other in COMMANDS and flags & {*_OWN_DATA} else name


def main() -> None:
    """Runs a command, or prints the overview or the version; ends the program."""
    name = name_of(sys.argv[1], sys.argv[2:]) if len(sys.argv) > 1 else ""
    if name not in COMMANDS:
        _answer(sys.argv[1:])
    sys.argv = [sys.argv[0], *arguments_of(name, sys.argv[2:])]
    # As `python -m` starts it, which is also where its errors are handled.
    runpy.run_module(COMMANDS[name], run_name="__main__", alter_sys=True)


@command
def _answer(given: Sequence[str]) -> None:
    """Answers what is not a command.

    Raises:
        UserError: it is a mistake.
    """
    # Printed as it stands: the terminal's tables take longer to import than this takes.
    first = given[0] if given else "--help"
    if first == "--version":
        print(f"vop_jax {vop_jax.__version__}")
    elif first in ("--help", "-h"):
        for line in overview():
            print(line)
    elif first.startswith("-"):
        raise UserError(
            f"{shortened(first)} comes before a command; see vop-jax --help"
        )
    else:
        hint = did_you_mean(first, COMMANDS) or "; see vop-jax --help"
        raise UserError(f"{shortened(first)} is not a command{hint}")


if __name__ == "__main__":
    main()
