"""A run's folder and its files, each written atomically."""

import contextlib
import json
import os
import types
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, Required

from annotated_types import Ge, Le, MaxLen
from typing_extensions import TypedDict

from data_pipelines.console.errors import UserError
from data_pipelines.files.json_files import described, read_json
from data_pipelines.files.locks import exclusive
from vop_jax.runtime.files import as_path, write_atomically

if TYPE_CHECKING:
    from etils import epath


class StoredCompute(TypedDict, total=False):
    """The fields of a run's `compute` that are read."""

    dtype: Literal["float32", "bfloat16"]


class StoredConfig(TypedDict, total=False):
    """The fields of a run's `config.json` that other commands read."""

    method: Required[Annotated[str, MaxLen(100)]]
    backbone: Annotated[str, MaxLen(4_096)]
    dataset: Annotated[str, MaxLen(100)]
    data_dir: Annotated[str, MaxLen(4_096)]
    num_frames: Annotated[int, Ge(1), Le(4_096)]
    holdout: Annotated[int, Ge(1)]
    train_on_holdout: bool
    memory_gb: Annotated[float, Ge(0)]
    compute: StoredCompute
    evaluation_batch_size: Annotated[int, Ge(1), Le(1_000_000)]
    ties: Annotated[str, MaxLen(100)]


class RunFolder:
    """The paths of a run's files.

    Attributes:
        path: the folder.
        checkpoints: the folder of Orbax checkpoints.
        tuned: the trained parameters.
        results: the final metrics.
        report: the HTML report.

    Args:
        path: the folder.
        flag: the flag that names it, for messages.
    """

    def __init__(self, path: "epath.PathLike", flag: str = "--workdir"):
        self.path = as_path(path)
        self._flag = flag
        self.checkpoints = self.path / "checkpoints"
        self.tuned = self.path / "tuned.safetensors"
        self.results = self.path / "results.json"
        self.report = self.path / "report" / "index.html"
        self.config = self.path / "config.json"
        self.metrics = self.path / "metrics.jsonl"
        self.tensorboard = self.path / "tensorboard"

    def alone(self) -> contextlib.AbstractContextManager[None]:
        """Excludes every other run from the folder while the block runs.

        Readers are not excluded. The lock file is not part of a run.

        Raises:
            UserError: another process works in it, or it cannot be written.
        """
        return exclusive(
            self.path / ".lock",
            self.path,
            advice=f"use another {self._flag}",
        )

    def check_place(self) -> None:
        """Checks that a run's files can be written there.

        Raises:
            UserError: another file is in the way, or the folder is read-only.
        """
        if "://" in str(self.path):
            return
        try:
            str(self.path).encode()
        # TensorFlow takes a path as text.
        except UnicodeEncodeError:
            raise UserError(
                f"{self.path} is not UTF-8; use another {self._flag}"
            ) from None
        try:
            parent = next(x for x in [self.path, *self.path.parents] if x.exists())
        # A name that is too long for the file system, or holds a null byte.
        except (OSError, ValueError) as error:
            raise UserError(
                f"{self._flag} cannot be used ({error}); use another {self._flag}"
            ) from None
        if not parent.is_dir():
            raise UserError(f"{parent} is a file; use another {self._flag}")
        # Tables of a search index, which refuses a run's folder likewise.
        if self.path.is_dir() and any(self.path.glob("*.lance")):
            raise UserError(
                f"{self.path} is a folder of other files, a search index; use another "
                f"{self._flag}"
            )
        folders = (self.checkpoints, self.tensorboard, self.report.parent)
        files = (self.config, self.metrics, self.tuned, self.results, self.report)
        for path, wanted in [(x, "folder") for x in folders] + [
            (x, "file") for x in files
        ]:
            if path.exists() and path.is_dir() != (wanted == "folder"):
                raise UserError(
                    f"{path} is in the way, a run keeps a {wanted} of that name; move "
                    f"it, or use another {self._flag}"
                )
        for path in (parent, *(x for x in folders if x.exists())):
            if not os.access(path, os.W_OK):
                raise UserError(f"{path} cannot be written; use another {self._flag}")

    def check(
        self,
        config: dict[str, Any],
        free: Sequence[str] = (),
        added: Mapping[str, Any] = types.MappingProxyType({}),
    ) -> None:
        """Checks that the folder is free or holds a run of this configuration.

        Args:
            config: the configuration as JSON values.
            free: fields that may differ, since they do not affect the result.
            added: fields that an older run's file may lack, by their flat names -> the
                value it implies.

        Raises:
            UserError: it holds another run, or it cannot be written.
        """
        self.check_place()
        if not self.config.exists():
            return
        old = {**added, **flat_fields(self.read_config())}
        new = flat_fields(json.loads(json.dumps(config)))
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
            + f"); use another {self._flag}"
        )

    def is_run(self) -> bool:
        """Whether it is a run's folder; a CLIP's folder has a `config.json` as well."""
        return self.config.is_file() and "method" in self.read_config()

    def read_config(self) -> dict[str, Any]:
        """Reads the configuration of the run.

        Raises:
            UserError: the file is damaged, or a field is invalid.
        """
        values = read_json(self.config, finite=False)
        config = described(values, dict, str(self.config))
        if "method" in config:
            described(config, StoredConfig, str(self.config))
        return config

    def read_backbone(self) -> str:
        """What the run's configuration names as its backbone.

        Raises:
            UserError: the file is damaged, or names none.
        """
        config = self.read_config()
        if "backbone" not in config:
            raise UserError(
                f"{self.config} lacks the key 'backbone'; use the file that the run "
                "has written"
            )
        return config["backbone"]

    def find_data(self, dataset: str) -> str:
        """The folder of prepared data that the run names, from wherever it is read.

        A relative one is looked for in the working folder, then in those that the run's
        folder is in: the run was made in one of them.
        """
        stated = self.read_config().get("data_dir", "data") if self.is_run() else "data"
        if "://" in f"{stated}{self.path}" or os.path.isabs(stated):
            return stated
        if any(Path(stated).glob(f"*x*/{dataset}")) or not self.is_run():
            return stated
        above = (x / stated for x in Path(self.path).resolve().parents)
        found = (str(x) for x in above if any(x.glob(f"*x*/{dataset}")))
        return next(found, stated)

    def read_results(self) -> dict[str, Any]:
        """Reads `results.json`; empty if there is none yet.

        Raises:
            UserError: the file is damaged.
        """
        if not self.results.exists():
            return {}
        values = read_json(self.results, finite=False)
        return described(values, dict, str(self.results))

    def start(self, config: dict[str, Any]) -> None:
        """Writes `config.json` unless it is there."""
        if not self.config.exists():
            write_atomically(self.config, json.dumps(config, indent=1))


def flat_fields(tree: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Flattens nested values to the names that `--config.NAME` takes."""
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        name = f"{prefix}{key}"
        flat |= (
            flat_fields(value, f"{name}.") if isinstance(value, dict) else {name: value}
        )
    return flat
