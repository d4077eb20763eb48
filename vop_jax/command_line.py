"""Commands that take a configuration: flags, help, one-line errors."""

import functools
import sys
from collections.abc import Callable, Sequence
from typing import Any

from absl import app, flags
from ml_collections import config_flags

from data_pipelines.errors import UserError, command
from vop_jax.startup import start_up


def run_command(
    function: Callable[[Any], int | None],
    *,
    usage: str | None,
    define: Callable[[], object] = lambda: None,
    config_needed: bool = True,
) -> None:
    """Parses the flags and runs a command; ends the program.

    Args:
        function: the command; given the parsed flags, among them `config`. Its result
            is the exit status; a `UserError` becomes one line and status 2.
        usage: what `--help` prints before the flags.
        define: defines the command's own flags. Not done on import, so that commands
            can be imported beside each other.
        config_needed: whether a command without `--config` is a mistake.
    """
    start_up()
    config_flags.DEFINE_config_file(
        "config",
        None,
        "The configuration file, with the short form behind a colon.",
    )
    define()
    app.run(
        command(lambda left: function(flags.FLAGS)),
        flags_parser=functools.partial(_parse_or_exit, usage, config_needed),
    )


def _parse_or_exit(
    usage: str | None, config_needed: bool, arguments: Sequence[str]
) -> list[str]:
    if any(flag in arguments for flag in ("--help", "-h", "--helpshort")):
        print(usage)
        print(flags.FLAGS.main_module_help())
        sys.exit(0)
    try:
        return _parse(arguments, config_needed)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)


def _parse(arguments: Sequence[str], config_needed: bool) -> list[str]:
    """Parses the flags; whatever is wrong with them is a `UserError`."""
    try:
        left = flags.FLAGS(list(arguments))
    except UserError:
        raise
    # ml_collections answers an unknown field with the error of the mapping it is.
    except (flags.Error, AttributeError, KeyError, TypeError, ValueError) as error:
        raise UserError(_first_reason(error)) from None
    if len(left) > 1:
        raise UserError(f"{left[1]!r} is not a flag; see --help")
    if flags.FLAGS.config is None:
        if not config_needed:
            return left
        raise UserError("--config is missing, for example --config=configs/vop.py")
    try:
        flags.FLAGS.config.to_dict()
    # A file that cannot be read shows only when something of it is wanted.
    except OSError as error:
        raise UserError(f"--config: {str(error).strip().splitlines()[-1]}") from None
    return left


def _first_reason(error: BaseException) -> str:
    """What an error says, in one line; one that wraps another says what that says."""
    inner = error.args[0] if error.args else error
    if isinstance(inner, BaseException) and inner is not error:
        return _first_reason(inner)
    text = " ".join(str(inner).split())
    return f"no such field: {text}" if isinstance(error, KeyError) else text
