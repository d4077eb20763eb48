"""Finds and reads a prepared data set."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
from etils import epath

from data_pipelines.catalog.table import find_dataset
from data_pipelines.console.arguments import is_store
from data_pipelines.console.errors import UserError
from data_pipelines.console.terminal import inform
from data_pipelines.decoding.resizing import CLIP_RESIZING, Resizing
from data_pipelines.feeding.split import (
    Split,
    hold_out,
    load_split,
    split_sizes,
)
from data_pipelines.preparing.prepare import prepare, prepared_path
from data_pipelines.preparing.provenance import (
    check_resizing,
    check_split,
    read_provenance,
)

# Other preparations that a message lists.
_MOST_NAMED = 4


class Data(NamedTuple):
    """A data set ready for use.

    Attributes:
        splits: by name, with the token ids of their captions.
        provenance: what the shards were made from.
    """

    splits: dict[str, Split]
    provenance: dict[str, Any]


def _here(work: Callable[[], object]) -> object:
    return work()


def render_missing(
    dataset: str,
    data_dir: str,
    num_frames: int,
    image_size: int,
    resizing: Resizing = CLIP_RESIZING,
    once: Callable[[Callable[[], object]], object] = _here,
) -> None:
    """Prepares a data set that is rendered, not filmed, if that is not done yet.

    Args:
        dataset: a row of the table of data sets; nothing is done for one of videos.
        data_dir: the folder of prepared data sets.
        num_frames: F.
        image_size: height and width of the prepared frames, pixels.
        resizing: how they are made square.
        once: runs a function on one of several processes while the others wait.
    """
    if not find_dataset(dataset).rendered:
        return
    path = prepared_path(dataset, data_dir, num_frames, image_size, resizing)
    sizes: dict[str, Any] = {"num_frames": num_frames, "image_size": image_size}

    def render() -> None:
        if not path.is_dir():
            inform(
                f"{dataset} is not prepared in {data_dir}, so it is rendered there; "
                "data_dir names another folder"
            )
            prepare(dataset, data_dir, **sizes, resizing=resizing)

    once(render)


def find_prepared(
    dataset: str,
    data_dir: str,
    num_frames: int,
    image_size: int,
    resizing: Resizing = CLIP_RESIZING,
) -> epath.Path:
    """Finds shards with F frames or, if there are none, with the next larger number.

    Args:
        dataset: a row of the table of data sets.
        data_dir: the folder of prepared data sets.
        num_frames: F.
        image_size: height and width of the prepared frames, pixels.
        resizing: how they were made square.

    Raises:
        UserError: nothing is prepared.
    """
    if is_store(data_dir) and not data_dir.startswith("gs:"):
        raise UserError(
            f"{data_dir}: TensorFlow reads shards of this machine and of gs:// alone; "
            "copy them"
        )
    path = prepared_path(dataset, data_dir, num_frames, image_size, resizing)
    row = find_dataset(dataset)
    if path.is_dir():
        return path
    frames = f"x{image_size}{resizing.suffix}"
    there = [
        (other.parents[1].name, other)
        for other in epath.Path(data_dir).glob(f"*x*/{dataset}/{path.name}")
    ]
    stored = {
        int(count): other
        for name, other in there
        if name.endswith(frames) and (count := name.removesuffix(frames)).isdecimal()
    }
    more = [count for count in stored if count > num_frames]
    if more:
        return stored[min(more)]
    flags = "" if row.rendered else " --videos=DIR --annotations=DIR"
    for name, value, usual in (
        ("num_frames", num_frames, row.num_frames),
        ("image_size", image_size, row.image_size),
    ):
        flags += f" --{name}={value}" if value != usual else ""
    for name, value, usual in (
        ("resize", resizing.resize, CLIP_RESIZING.resize),
        ("filter", resizing.filter, CLIP_RESIZING.filter),
    ):
        flags += f" --{name}={value}" if value != usual else ""
    instead = ""
    if there and not stored:
        others = ", ".join(sorted(name for name, _ in there)[:_MOST_NAMED])
        instead = f" (there is only {others}, which has frames of another kind)"
    if stored:
        fewer = max(stored)
        instead = f" (or use num_frames={fewer}, as {stored[fewer]} has)"
    raise UserError(
        f"{path} is missing; run python -m data_pipelines.prepare "
        f"--dataset={dataset} --output={data_dir}{flags}{instead}"
    )


def load_data(
    dataset: str,
    data_dir: str,
    *,
    num_frames: int,
    image_size: int,
    resizing: Resizing = CLIP_RESIZING,
    tokenize: Callable[[list[str]], np.ndarray],
    splits: Sequence[str] = ("train", "validation", "test"),
    holdout: int = 500,
    train_on_holdout: bool = False,
    memory_gb: float = 32.0,
) -> Data:
    """Reads a prepared data set; `render_missing` makes one that can be rendered.

    Args:
        dataset: a row of the table of data sets.
        data_dir: the folder of prepared data sets.
        num_frames: F.
        image_size: height and width of the prepared frames, pixels.
        resizing: how the model wants them made square.
        tokenize: captions to token ids.
        splits: the splits to read.
        holdout: number of training videos held out as the validation split if none is
            published.
        train_on_holdout: whether held-out videos are also trained on.
        memory_gb: a split with larger frames (GiB) stays on disk.

    Raises:
        UserError: nothing is prepared, a split does not exist, or its records are not
            those that were prepared.
    """
    path = find_prepared(dataset, data_dir, num_frames, image_size, resizing)
    published = split_sizes(path)
    wanted = set(splits)
    held_out = "validation" not in published and bool(wanted & {"train", "validation"})
    if held_out:
        wanted = wanted - {"validation"} | {"train"}
    found = {
        name: load_split(path, name, num_frames, memory_gb * 2**30)
        for name in sorted(wanted)
    }
    provenance = read_provenance(path)
    check_resizing(path, provenance, resizing)
    for split in found.values():
        check_split(path, provenance, split.name, split.videos())
        if split.image_size != image_size:
            raise UserError(
                f"{path} states frames of {split.image_size} pixels instead of "
                f"{image_size}; remove it and prepare it again"
            )
    if held_out:
        found |= hold_out(found["train"], holdout, train_on_holdout)._asdict()
    found = {name: found[name].tokenized(tokenize) for name in splits}
    return Data(found, provenance)
