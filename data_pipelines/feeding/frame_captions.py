"""Captions of single frames, which some losses train with beside those of videos."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import cast

import numpy as np

from data_pipelines.catalog.table import find_dataset
from data_pipelines.console.errors import UserError
from data_pipelines.decoding.sampling import uniform_indices
from data_pipelines.feeding.split import Split
from data_pipelines.files.json_files import read_described, shown
from data_pipelines.text.buckets import BUCKETS, bucket_length, caption_lengths

# The value of `config.frame_captions` for a data set that can tell them itself.
EXACT = "exact"
# Bytes of a file; 12 captions of 10,000 videos take about 10 MB.
_LARGEST = 1 << 30


def read_frame_captions(
    source: str, dataset: str, count: int
) -> Mapping[str, Sequence[str]]:
    """The captions of each video's frames, by the video's id.

    Args:
        source: `exact`, or a JSON file of an object of lists.
        dataset: a row of the table of data sets.
        count: G, the number of stored frames of each video.

    Raises:
        UserError: the data set cannot tell them, or the file cannot be read.
    """
    if source != EXACT:
        path = Path(source).expanduser()
        found = read_described(path, dict[str, object], _LARGEST)
        # Not by the description: of a million mistakes the first is enough.
        for video, own in found.items():
            if not (isinstance(own, list) and all(isinstance(x, str) for x in own)):
                raise UserError(
                    f"{path}: what {shown(video)} has is no list of captions; give "
                    "each video a list of strings, one for each frame"
                )
        return cast(Mapping[str, Sequence[str]], found)
    captions = find_dataset(dataset).frame_captions_of(
        lambda total: uniform_indices(total, count)
    )
    if captions is None:
        raise UserError(
            f"config.frame_captions is {EXACT}, but {dataset} does not tell what its "
            "frames show; use a JSON file of captions"
        )
    return captions


def with_frame_captions(
    split: Split,
    captions: Mapping[str, Sequence[str]],
    tokenize: Callable[[list[str]], np.ndarray],
    *,
    whole: bool = False,
    source: str = "config.frame_captions",
) -> Split:
    """The split with the token ids of a caption for each of its stored frames.

    Args:
        split: of training videos.
        captions: of each video's frames, in their order.
        tokenize: captions to token ids.
        whole: whether the padding to the full context is kept.
        source: names them in an error.

    Raises:
        UserError: a video has no captions, another number of them than frames, or an
            empty one.
    """
    count = split.frames.count
    for video in split.video_ids:
        own = captions.get(video)
        if own is None or len(own) != count or not all(x.strip() for x in own):
            has = "none" if own is None else f"{len(own)}"
            if own is not None and len(own) == count:
                has = "an empty one"
            raise UserError(
                f"{source}: video {video} has {has} for its {count} frames; give each "
                "stored frame of each training video one caption"
            )
    flat = tokenize([x for video in split.video_ids for x in captions[video]])
    if not whole:
        longest = int(caption_lengths(flat).max())
        flat = flat[:, : bucket_length(longest, flat.shape[1], BUCKETS)]
    ids = flat.reshape(len(split.video_ids), count, -1)
    return dataclasses.replace(split, frame_ids=ids)


def without_frame_captions(split: Split) -> Split:
    """The same split without captions of its frames."""
    return dataclasses.replace(split, frame_ids=split.frame_ids[:0])
