"""Trains and evaluates.

    python -m vop_jax.main --config=configs/vop.py[:method=vop,dataset=demo]
        [--workdir=DIR] [--config.any.field=value]

Running the same command again goes on where it was broken off.
"""

import sys
from collections.abc import Sequence

from absl import app, flags
from ml_collections import config_flags

from data_pipelines.errors import UserError, command
from data_pipelines.terminal import quiet_libraries, set_main_process

_CONFIG = config_flags.DEFINE_config_file(
    "config", None, "The configuration file, with the short form behind a colon."
)
_WORKDIR = flags.DEFINE_string(
    "workdir", None, "The run's folder; runs/DATASET_METHOD where it is not given."
)


def parse_flags(arguments: Sequence[str]) -> list[str]:
    """Parses the flags; whatever is wrong with them is a `UserError`."""
    if any(flag in arguments for flag in ("--help", "-h", "--helpshort")):
        print(__doc__)
        print(flags.FLAGS.main_module_help())
        sys.exit(0)
    try:
        left = flags.FLAGS(list(arguments))
    except UserError:
        raise
    # ml_collections answers an unknown field with the error of the mapping it is.
    except (flags.Error, AttributeError, KeyError, TypeError, ValueError) as error:
        raise UserError(_first_reason(error)) from None
    if len(left) > 1:
        raise UserError(f"{left[1]!r} is not a flag; see --help")
    if _CONFIG.value is None:
        raise UserError("--config is missing, for example --config=configs/vop.py")
    try:
        _CONFIG.value.to_dict()
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


@command
def run_main(arguments: list[str]) -> None:
    """Runs the job of the flags."""
    del arguments
    quiet_libraries()
    # Imported late, so that a typing mistake is answered without a wait.
    import jax

    from vop_jax.config import check_config
    from vop_jax.job import run_job
    from vop_jax.run_folder import RunFolder

    config = check_config(_CONFIG.value.to_dict())
    set_main_process(jax.process_index() == 0)
    workdir = _WORKDIR.value or f"runs/{config.dataset}_{config.method}"
    run_job(config, RunFolder(workdir))


def main() -> None:
    """The command."""
    quiet_libraries()
    app.run(run_main, flags_parser=command_flags)


def command_flags(arguments: Sequence[str]) -> list[str]:
    """`parse_flags`, ending the program with status 2 where they are wrong."""
    try:
        return parse_flags(arguments)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)


if __name__ == "__main__":
    main()
