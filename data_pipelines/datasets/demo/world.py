"""The demo's clips, in groups of four that differ only in the order of their frames.

A group is a clip, its time-reversed twin, a variant with the same last frame but
another beginning, and the variant's twin. Neither the first nor the last frame alone
tells the four apart, so only a model that uses temporal order can.
"""

import numpy as np

from data_pipelines.datasets.demo.clip import ClipSpec
from data_pipelines.datasets.demo.events import EVENTS, Cast, sample_cast

GROUP = 4
# Number of groups that share one cast (objects, colours, place, background).
CAST_GROUPS = 4
SPLITS = {"train": 640, "validation": 96, "test": 256}


def sample_group(
    rng: np.random.Generator, group: int = 0, cast: Cast | None = None
) -> list[ClipSpec]:
    """Samples a group: a clip, its twin, the variant, the variant's twin."""
    cast = cast or sample_cast(rng)
    event_of = EVENTS[int(rng.integers(len(EVENTS)))]
    clips = []
    for variant, event in enumerate(event_of(rng, cast)):
        for twin, says in enumerate((event.forwards, event.backwards)):
            clips.append(
                ClipSpec(
                    f"clip{4 * group + len(clips):04d}",
                    event.family,
                    group,
                    twin,
                    variant,
                    cast.background,
                    event.tracks,
                    says,
                )
            )
    return clips


def sample_clips(seed: int = 0) -> dict[str, list[ClipSpec]]:
    """Samples the clips of each split, group after group.

    Four groups share one cast, so that objects and places alone do not identify a clip:
    the event does. No sentence occurs twice, within or across splits, so that each
    caption has exactly one correct clip and no test caption is in the training split.
    """
    rng = np.random.default_rng(seed)
    seen: set[str] = set()
    splits: dict[str, list[ClipSpec]] = {}
    group = 0
    cast = sample_cast(rng)
    for split, count in SPLITS.items():
        clips: list[ClipSpec] = []
        while len(clips) < count:
            fresh = sample_group(rng, group, cast)
            sentences = {clip.sentences[0] for clip in fresh}
            if len(sentences) < GROUP or sentences & seen:
                continue
            seen |= sentences
            clips += fresh
            group += 1
            if group % CAST_GROUPS == 0:
                cast = sample_cast(rng)
        splits[split] = clips
    return splits
