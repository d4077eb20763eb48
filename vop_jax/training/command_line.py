"""Commands that take a configuration: flags, help, one-line errors."""

import ast
import functools
import re
import shutil
import sys
import textwrap
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from absl import app, flags
from ml_collections import config_flags

from data_pipelines.console.arguments import fold
from data_pipelines.console.errors import UserError, command
from data_pipelines.console.names import ask, closest, did_you_mean, shortened
from data_pipelines.console.ranges import read_number
from vop_jax.runtime.commands import commands_with
from vop_jax.runtime.startup import start_up

_HELP = ("--help", "-h", "-help", "--helpshort", "--helpfull")
# Flags of absl that are numbers, by what it calls their types.
_NUMBERS = {"int": int, "float": float}
# A flag that sets a field, and the field.
_FIELD = re.compile(r"--?config\.([\w.-]+)")
# What a wrong flag ends in; ml_collections raises an ordinary mapping's errors for an
# unknown field.
_WRONG_FLAG = (flags.Error, AttributeError, KeyError, TypeError, ValueError)
# The longest help line, however wide the terminal is.
_WIDEST = 100


def run_command(
    function: Callable[[Any], int | None],
    *,
    usage: str | None,
    define: Callable[[], object] = lambda: None,
    config_needed: bool = True,
) -> None:
    """Parses the flags and runs a command; ends the program.

    Args:
        function: the command; it gets the parsed flags, among them `config`. Its result
            is the exit status; a `UserError` becomes one line and status 2.
        usage: what `--help` prints before the flags.
        define: defines the command's own flags; called here and not on import, so that
            several commands can be imported in one process.
        config_needed: whether `--config` is required.
    """

    @command
    def run() -> int | None:
        start_up()
        own = define_flags(define)
        app.run(
            lambda left: sys.exit(function(flags.FLAGS)),
            flags_parser=functools.partial(
                parse, usage=usage, own=own, config_needed=config_needed
            ),
        )

    run()


def define_flags(define: Callable[[], object]) -> list[str]:
    """Defines `--config` and a command's own flags; returns their names."""
    before = set(flags.FLAGS)
    config_flags.DEFINE_config_file(
        "config",
        None,
        "The configuration file, with the short form behind a colon.",
    )
    define()
    return sorted(set(flags.FLAGS) - before)


def parse(
    arguments: Sequence[str],
    *,
    usage: str | None,
    own: Sequence[str],
    config_needed: bool,
) -> list[str]:
    """Parses a command line into `flags.FLAGS`, or prints the help and ends.

    Args:
        arguments: the command line, the program's name first.
        usage: what the help begins with.
        own: names of the command's flags.
        config_needed: whether `--config` is required.

    Raises:
        UserError: the command does not accept the arguments.
    """
    arguments = [arguments[0], *(_folded(x, own) for x in arguments[1:])]
    arguments = _with_short_form(arguments)
    # ml_collections reads overridden fields from there.
    sys.argv = arguments
    if any(flag in arguments for flag in _HELP):
        print(_help(usage, own, arguments))
        sys.exit(0)
    return _parse(arguments, own, config_needed)


def _folded(argument: str, own: Sequence[str]) -> str:
    """An argument with its flag spelled as it was defined: `-` and `_` are equal."""
    if _FIELD.match(argument):
        name, equals, value = argument.partition("=")
        return "--" + name.lstrip("-").replace("-", "_") + equals + value
    switches = {x: f"no{x}" for x in own if flags.FLAGS[x].boolean}
    argument = fold(argument, {*own, *(f"no_{x}" for x in switches)})
    for name, negated in switches.items():
        if argument == f"--no_{name}":
            return f"--{negated}"
    return argument


def _with_short_form(arguments: Sequence[str]) -> list[str]:
    """Moves `--config.method=NAME`, `dataset` and `backbone` into the short form.

    The defaults of other fields depend on them. Set later, a run would have the name of
    one method and the prompts of another.
    """
    files = [i for i, x in enumerate(arguments) if re.match(r"--?config=", x)]
    kept, moved = list(arguments), []
    for argument in arguments:
        found = re.fullmatch(r"--config\.(method|dataset|backbone)=([^,]*)", argument)
        if found and files:
            kept.remove(argument)
            moved.append(f"{found[1]}={found[2]}")
    if moved and _takes_short_form(arguments[files[-1]].partition("=")[2]):
        place = kept.index(arguments[files[-1]])
        file, _, short_form = kept[place].partition(":")
        kept[place] = f"{file}:{','.join(filter(None, [short_form, *moved]))}"
        return kept
    return list(arguments)


def _takes_short_form(name: str) -> bool:
    """Whether a configuration file's `get_config` takes an argument."""
    try:
        tree = ast.parse(Path(name.partition(":")[0]).read_text())
    except (OSError, ValueError, SyntaxError):
        return False
    return any(
        isinstance(node, ast.FunctionDef)
        and node.name == "get_config"
        and bool(node.args.args)
        for node in tree.body
    )


def _help(usage: str | None, own: Sequence[str], arguments: Sequence[str]) -> str:
    """The help: what the command does, its flags, and all configuration fields."""
    # Imported late: it brings JAX with it.
    from vop_jax.training.config import parse_short_form
    from vop_jax.training.fields import overview, shown

    given = [x.partition("=")[2] for x in arguments if re.match(r"--?config=", x)]
    short_form = given[-1].partition(":")[2] if given else ""
    rows = []
    for name in own:
        flag = flags.FLAGS[name]
        default = "none" if flag.default is None else shown(flag.default)
        said = "efault" in (flag.help or "") or name == "config"
        rows.append(
            (f"--{name}", flag.help + ("" if said else f" (default: {default})"))
        )
    width = min(max(shutil.get_terminal_size().columns, 40), _WIDEST)
    lines = [(usage or "").rstrip(), "", "flags:", *_table(rows, width)]
    for title, rows in overview(parse_short_form(short_form)):
        lines += ["", f"{title}:", *_table(rows, width)]
    return "\n".join(lines)


def _table(rows: Sequence[tuple[str, str]], width: int) -> list[str]:
    """Names with explanations to their right or, if there is no room, below."""
    longest = max(len(name) for name, _ in rows)
    beside = longest <= 24
    indent = " " * (longest + 4 if beside else 8)
    lines = []
    for name, text in rows:
        wrapped = textwrap.wrap(
            text, width, initial_indent=indent, subsequent_indent=indent
        )
        if beside and wrapped:
            wrapped[0] = f"  {name:<{longest}}  {wrapped[0].lstrip()}"
        else:
            wrapped.insert(0, f"  {name}")
        lines += wrapped
    return lines


def _parse(
    arguments: Sequence[str], own: Sequence[str], config_needed: bool
) -> list[str]:
    """Parses the flags; any mistake in them is a `UserError`."""
    try:
        left = flags.FLAGS(list(arguments))
    except UserError:
        raise
    except flags.UnrecognizedFlagError as error:
        raise UserError(_unknown_flag(error.flagname, own)) from None
    # The file is code, which may fail in any way.
    except Exception as error:
        reason = _fault_in_file(arguments, error)
        if not reason and not isinstance(error, _WRONG_FLAG):
            raise
        reason = reason or _unknown_field(arguments) or _wrong_value(arguments)
        raise UserError(reason or _first_reason(error)) from None
    _check_numbers(arguments)
    if len(left) > 1:
        raise UserError(f"{shortened(left[1])} is not a flag; see --help")
    if flags.FLAGS.config is None:
        if not config_needed:
            return left
        raise UserError("--config is missing, for example --config=configs/vop.py")
    try:
        flags.FLAGS.config.to_dict()
    # ml_collections loads the file lazily, so an unreadable one fails only here.
    except OSError as error:
        raise UserError(_unreadable(arguments, error)) from None
    return left


def _check_numbers(arguments: Sequence[str]) -> None:
    """Checks how numbers are written; absl reads them with Python's own types.

    Args:
        arguments: a command line that absl has parsed.

    Raises:
        UserError: one is not what `read_number` reads.
    """
    for argument, following in zip(arguments, [*arguments[1:], ""], strict=True):
        name, equals, text = argument.partition("=")
        bare = re.sub("^--?", "", name)
        if bare == name or bare not in flags.FLAGS:
            continue
        kind = _NUMBERS.get(flags.FLAGS[bare].flag_type())
        text = text if equals else following
        try:
            if kind:
                read_number(text, kind)
        except ValueError as error:
            start = bare if _FIELD.match(name) else f"--{bare}"
            raise UserError(f"{start} is {shortened(text)}; {error}") from None


def _unknown_flag(name: str, own: Sequence[str]) -> str:
    """The error for an unknown flag, with what may have been meant."""
    from vop_jax.training.config import SHORT_FORM
    from vop_jax.training.fields import suggested_fields

    start = f"--{shortened(name)[1:-1]} is not a flag"
    fields = suggested_fields(name.replace("-", "_"))
    here = {*SHORT_FORM, *(x.rpartition(".")[2] for x in fields)}
    others = [] if name.replace("-", "_") in here else commands_with(name)
    if others:
        return f"{start} here; it is a flag of python -m {', '.join(others)}"
    if near := closest(name, own):
        return start + ask(f"--{x}" for x in near)
    short = closest(name, SHORT_FORM)
    if short:
        return start + ask(f"--config=configs/vop.py:{x}=VALUE" for x in short)
    return start + (ask(f"--config.{x}" for x in fields) or "; see --help")


def _unknown_field(arguments: Sequence[str]) -> str:
    """The error for the first unknown field; empty if all fields are known."""
    from vop_jax.training.fields import unknown_field

    found = (_FIELD.match(argument) for argument in arguments)
    reasons = (unknown_field(x[1]) for x in found if x)
    return next(filter(None, reasons), "")


def _wrong_value(arguments: Sequence[str]) -> str:
    """What is wrong with the first value that its field cannot have, or nothing."""
    from vop_jax.training.fields import wrong_value

    found = (re.fullmatch(rf"{_FIELD.pattern}=(.*)", x, re.S) for x in arguments)
    reasons = (wrong_value(x[1], x[2]) for x in found if x)
    return next(filter(None, reasons), "")


def _fault_in_file(arguments: Sequence[str], error: BaseException | None) -> str:
    """Where and why the code of the configuration file fails; empty if it does not."""
    file = _file_of(arguments)
    while error is not None:
        if isinstance(error, AttributeError) and error.name == "get_config":
            return f"--config: {file} has no function get_config, see configs/vop.py"
        lines = [
            line
            for frame, line in traceback.walk_tb(error.__traceback__)
            if Path(frame.f_code.co_filename) == file
        ]
        if isinstance(error, SyntaxError) and Path(error.filename or "") == file:
            lines.append(error.lineno or 1)
        if lines:
            # Without quotes: it is not what was typed, only as long as it likes.
            reason = shortened(" ".join(str(error).split()))[1:-1]
            return (
                f"--config: {file}, line {lines[-1]}: {type(error).__name__}: {reason}"
                "; a configuration is Python with a function get_config, see "
                "configs/vop.py"
            )
        error = error.__context__
    return ""


def _file_of(arguments: Sequence[str]) -> Path:
    """The configuration file that is named on the command line."""
    given = [x for x in arguments if re.match(r"--?config(=|$)", x)]
    return Path(given[-1].partition("=")[2].partition(":")[0]) if given else Path()


def _unreadable(arguments: Sequence[str], error: OSError) -> str:
    """Why a configuration file cannot be read, and which file may have been meant."""
    path = _file_of(arguments)
    reason = error.strerror or str(error).strip().splitlines()[-1].strip()
    reason = (reason.partition("] ")[2] or reason).partition(": '")[0]
    reason = f"{path} cannot be read ({reason})"
    try:
        files = [str(x) for x in path.parent.glob("*.py")]
    except OSError:
        files = []
    return f"--config: {reason}{did_you_mean(str(path), files)}"


def _first_reason(error: BaseException) -> str:
    """An error's message in one line; of a wrapped error that of the inner one."""
    inner = error.args[0] if error.args else error
    if isinstance(inner, BaseException) and inner is not error:
        return _first_reason(inner)
    text = " ".join(str(inner).split())
    # absl prints the arguments of an error as a tuple.
    text = re.sub(r"\('([^']*)', '([^']*)'\)", r"\1 \2", text)
    return f"no such field: {text}" if isinstance(error, KeyError) else text
