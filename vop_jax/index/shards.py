"""Divides a folder of videos between the processes that index it."""

import hashlib
import os
import re
from typing import NamedTuple

from data_pipelines.console.errors import UserError

# Variables that say which of how many a process is, counted from 0. Kubernetes gives
# the index of a job's pod, and the manifest the number of pods.
_TASK = ("SLURM_PROCID", "SLURM_NTASKS")
_POD = ("JOB_COMPLETION_INDEX", "JOB_COMPLETIONS")
_ARRAY = ("SLURM_ARRAY_TASK_ID", "SLURM_ARRAY_TASK_COUNT")


class Shard(NamedTuple):
    """One part of a folder's videos.

    Attributes:
        number: which part, from 1.
        count: number of parts.
    """

    number: int = 1
    count: int = 1

    def owns(self, path: str) -> bool:
        """Whether a video belongs to this part; decided by its path alone."""
        # Not a checksum: those of names that differ in a digit have bits in common.
        found = hashlib.blake2b(os.fsencode(path), digest_size=8).digest()
        return int.from_bytes(found) % self.count == self.number - 1


def parse_shard(text: str, environment: "os._Environ[str] | dict[str, str]") -> Shard:
    """A shard from `3/16`, the third of sixteen, or from `auto`.

    Args:
        text: as given.
        environment: variables that a cluster sets, for `auto`.

    Raises:
        UserError: it is neither, or `auto` finds no such variables.
    """
    if text == "auto":
        return _automatic(environment)
    found = re.fullmatch(r"([0-9]{1,6})/([0-9]{1,6})", text)
    if not found or not 1 <= int(found[1]) <= int(found[2]):
        raise UserError(
            f"--shard is {text[:80]}; pass NUMBER/COUNT, such as 3/16 for "
            "the third of 16, or auto"
        )
    return Shard(int(found[1]), int(found[2]))


def _automatic(environment: "os._Environ[str] | dict[str, str]") -> Shard:
    parts = [x for x in (_ARRAY, _TASK, _POD) if x[0] in environment]
    if not parts:
        names = ", ".join((_ARRAY[0], _TASK[0], _POD[0]))
        raise UserError(
            f"--shard=auto finds none of {names}; pass --shard=NUMBER/COUNT, such as "
            "3/16"
        )
    # The tasks of an array's jobs are counted on: job 2 of tasks 0 to 3 has 8 to 11.
    index, total = 0, 1
    for names in parts:
        number, count = (_whole(environment, name) for name in names)
        if names is _ARRAY:
            number -= _whole(environment, "SLURM_ARRAY_TASK_MIN", "0")
            number //= max(1, _whole(environment, "SLURM_ARRAY_TASK_STEP", "1"))
        if not 0 <= number < count:
            raise UserError(
                f"--shard=auto finds {names[0]}={environment[names[0]]} of "
                f"{names[1]}={count}; it counts from 0 and must be below it"
            )
        index, total = index * count + number, total * count
    return Shard(index + 1, total)


def _whole(
    environment: "os._Environ[str] | dict[str, str]", name: str, default: str = ""
) -> int:
    text = environment.get(name, default)
    if not re.fullmatch(r"[0-9]{1,6}", text):
        raise UserError(
            f"--shard=auto finds {name}={text[:40] or '(not set)'}; set it to a whole "
            "number, or pass --shard=NUMBER/COUNT"
        )
    return int(text)
