"""Command-line arguments whose mistakes are one line."""

import argparse
from typing import NoReturn

from data_pipelines.errors import UserError


class Parser(argparse.ArgumentParser):
    """A parser of a module's command.

    Args:
        module: whose command it is; empty for a command within a command.
        description: the module's docstring, set as it stands.
        **options: as of `argparse.ArgumentParser`.
    """

    def __init__(self, module: str = "", description: str | None = None, **options):
        if module:
            options["prog"] = f"python -m {module}"
        super().__init__(
            description=description,
            formatter_class=argparse.RawDescriptionHelpFormatter,
            # An abbreviation means another flag as soon as one is added.
            allow_abbrev=False,
            **options,
        )

    def error(self, message: str) -> NoReturn:
        """Says what is wrong in one line, as all commands do.

        Raises:
            UserError: always.
        """
        raise UserError(f"{message}; see --help")


def check_positive(flags: argparse.Namespace, *names: str) -> None:
    """Makes sure that numbers are positive where they are given.

    Raises:
        UserError: one is not.
    """
    for name in names:
        value = getattr(flags, name)
        if value is not None and value <= 0:
            raise UserError(f"--{name} is {value}; it must be positive")
