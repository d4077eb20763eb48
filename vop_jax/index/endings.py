"""The kinds of files that `search export` writes, by their endings."""

from pathlib import Path

from data_pipelines.console.errors import UserError
from data_pipelines.console.printable import printable

ENDINGS: tuple[str, ...] = (".parquet", ".npy")


def check_ending(output: Path) -> None:
    """Checks that vectors can be written to a file of this name.

    Raises:
        UserError: it ends otherwise.
    """
    if output.suffix.lower() not in ENDINGS:
        raise UserError(
            f"{printable(str(output)[:200])} does not end in .parquet or .npy; name "
            "the file FILE.parquet, or FILE.npy for an array and a .jsonl beside it"
        )
