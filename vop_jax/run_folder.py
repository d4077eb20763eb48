"""A run's folder: its files, each written whole or not at all."""

import errno
import json
import math
import os
import re
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from etils import epath

from data_pipelines.errors import UserError


def as_path(name: epath.PathLike) -> epath.Path:
    """A path of this machine, made absolute, or one such as gs://bucket/folder."""
    path = epath.Path(name)
    return path if "://" in str(path) else path.expanduser().resolve()


def write_atomically(path: Path | epath.Path, content: str | bytes) -> None:
    """Replaces a file in one move, so that no reader ever sees half of it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.partial")
    if isinstance(content, str):
        content = content.encode()
    try:
        partial.write_bytes(content)
        partial.replace(path)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise


_FULL = re.compile(
    r"no space left|quota exceeded|file too large|RESOURCE_EXHAUSTED", re.I
)


def is_full(error: BaseException | None) -> bool:
    """Whether an error, or what it arose from, is that of a full disk."""
    if error is None:
        return False
    if isinstance(error, OSError) and error.errno in (
        errno.ENOSPC,
        errno.EDQUOT,
        errno.EFBIG,
    ):
        return True
    # Below Orbax is C++, which has only the text left; devices are exhausted as well.
    text = str(error)
    if _FULL.search(text) and "memory" not in text.lower():
        return True
    return is_full(error.__cause__ or error.__context__)


class RunFolder:
    """The paths of a run and what is kept there.

    Attributes:
        path: the folder.
        checkpoints: Orbax's folder.
        tuned: what was trained.
        results: the final figures.
        report: the page.
    """

    def __init__(self, path: epath.PathLike):
        self.path = as_path(path)
        self.checkpoints = self.path / "checkpoints"
        self.tuned = self.path / "tuned.safetensors"
        self.results = self.path / "results.json"
        self.report = self.path / "report" / "index.html"
        self.config = self.path / "config.json"
        self.metrics = self.path / "metrics.jsonl"
        self.tensorboard = self.path / "tensorboard"

    def check(self, config: dict[str, Any], free: Sequence[str] = ()) -> None:
        """Makes sure that the folder is free or holds a run of this configuration.

        Args:
            config: the configuration as JSON values.
            free: fields that may differ, since they change nothing of the result.

        Raises:
            UserError: it is another run's, or it cannot be written.
        """
        if self.path.exists() and not self.path.is_dir():
            raise UserError(f"{self.path} is a file; give another --workdir")
        if "://" not in str(self.path):
            parent = next(x for x in [self.path, *self.path.parents] if x.exists())
            if not os.access(parent, os.W_OK):
                raise UserError(
                    f"{self.path} cannot be written; give another --workdir"
                )
        if not self.config.exists():
            return
        kept = self.read_config()
        config = json.loads(json.dumps(config))
        if kept == config:
            return
        old, new = _flat(kept), _flat(config)
        differing = [
            f"{key} is {old.get(key)!r} there and {new.get(key)!r} here"
            for key in sorted(old.keys() | new.keys())
            if old.get(key) != new.get(key) and key not in free
        ]
        if not differing:
            return
        raise UserError(
            f"{self.path} holds a run of another configuration ("
            + "; ".join(differing[:3])
            + ("; ..." if len(differing) > 3 else "")
            + "); give another --workdir"
        )

    def is_run(self) -> bool:
        """Whether it is a run's; a CLIP's folder has a `config.json` as well."""
        return self.config.is_file() and "method" in self.read_config()

    def read_config(self) -> dict[str, Any]:
        """The configuration of the run.

        Raises:
            UserError: the file is damaged.
        """
        try:
            config = json.loads(self.config.read_text())
        except (UnicodeDecodeError, json.JSONDecodeError) as error:
            raise UserError(f"{self.config} is damaged ({error})") from None
        if not isinstance(config, dict):
            raise UserError(f"{self.config} is no JSON object")
        return config

    def read_results(self) -> dict[str, Any]:
        """What `results.json` holds; empty where there is none yet."""
        try:
            found = json.loads(self.results.read_text())
            return found if isinstance(found, dict) else {}
        except (OSError, ValueError):
            return {}

    def start(self, config: dict[str, Any]) -> None:
        """Writes `config.json` unless it is there."""
        if not self.config.exists():
            write_atomically(self.config, json.dumps(config, indent=1))


def _flat(tree: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        name = f"{prefix}{key}"
        flat |= _flat(value, f"{name}.") if isinstance(value, dict) else {name: value}
    return flat


class MetricsWriter:
    """`metrics.jsonl` and TensorBoard's events.

    Args:
        folder: the run's.
        step: the step to go on from; later lines of a broken run are dropped, since
            they will be written again.

    Attributes:
        started: when the run was started for the first time, seconds since 1970; the
            first line keeps it.
    """

    def __init__(self, folder: RunFolder, step: int = 0):
        # Imported late: TensorBoard takes a moment and only training writes events.
        from tensorboard.summary.writer.event_file_writer import EventFileWriter

        kept = [line for line in read_metrics(folder) if line["step"] <= step]
        if not kept or "started" not in kept[0]:
            kept.insert(0, {"step": 0, "started": time.time()})
        self.started: float = kept[0]["started"]
        write_atomically(
            folder.metrics, "".join(json.dumps(line) + "\n" for line in kept)
        )
        self._file = folder.metrics.open("a")
        self._events = EventFileWriter(str(folder.tensorboard))

    def write(self, step: int, **values: float) -> None:
        """Appends one line; a value that is not finite becomes null."""
        from tensorboard.compat.proto import event_pb2, summary_pb2

        values = {name: float(value) for name, value in values.items()}
        line = {
            name: value if math.isfinite(value) else None
            for name, value in values.items()
        }
        self._file.write(json.dumps({"step": step, **line}) + "\n")
        self._file.flush()
        summary = summary_pb2.Summary(  # pyright: ignore
            value=[
                summary_pb2.Summary.Value(  # pyright: ignore
                    tag=name, simple_value=value
                )
                for name, value in values.items()
            ]
        )
        self._events.add_event(
            event_pb2.Event(step=step, summary=summary)  # pyright: ignore
        )

    def close(self) -> None:
        """Closes both files."""
        self._file.close()
        self._events.close()


def read_metrics(folder: RunFolder) -> Iterator[dict[str, Any]]:
    """The lines of `metrics.jsonl`; a last line that was cut off is left out."""
    if not folder.metrics.exists():
        return
    for line in folder.metrics.read_text().splitlines():
        try:
            yield json.loads(line)
        except json.JSONDecodeError:
            return
