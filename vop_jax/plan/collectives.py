"""The collectives of a compiled program, parsed from its HLO text."""

import re
from collections import Counter
from collections.abc import Iterator
from typing import NamedTuple

_KINDS = (
    "all-gather",
    "all-reduce",
    "reduce-scatter",
    "all-to-all",
    "collective-permute",
    "collective-broadcast",
)
_COMPUTATION = re.compile(r"^(ENTRY )?%?([\w.\-]+) .*\{$")
# name = type opcode(operands), attributes; a tuple type is in parentheses.
_INSTRUCTION = re.compile(r"^\s+(?:ROOT )?%?[\w.\-]+ = (\(.*?\)|\S+) ([\w\-]+)\(")
_CALLED = re.compile(r"(?:calls|to_apply|body|condition)=%?([\w.\-]+)")
_BRANCHES = re.compile(r"branch_computations=\{([^}]*)\}")
_TRIPS = re.compile(r'"known_trip_count":\{"n":"(\d+)"\}')
_ARRAY = re.compile(r"\b(pred|[a-z]+(\d+)\w*)\[([\d,]*)\]")


class Collective(NamedTuple):
    """A collective operation with operands of one type.

    Attributes:
        kind: HLO's name, for example `all-reduce`.
        type: its result on each device, for example `f32[32,1024]`.
        size: bytes of the result.
    """

    kind: str
    type: str
    size: int


def count_collectives(text: str) -> Counter[Collective]:
    """Counts how often one execution of a program runs each collective.

    Args:
        text: of a compiled module, `compiled.as_text()`.

    Returns:
        The counts. The body of a loop counts once per iteration, or only once if the
        compiler does not state the number of iterations.
    """
    bodies: dict[str, list[str]] = {}
    entry, current = "", []
    for line in text.splitlines():
        if opened := _COMPUTATION.match(line):
            current = bodies.setdefault(opened[2], [])
            entry = opened[2] if opened[1] else entry
        else:
            current.append(line)
    found: Counter[Collective] = Counter()
    for collective, times in _walk(bodies, entry, 1):
        found[collective] += times
    return found


def _walk(
    bodies: dict[str, list[str]], name: str, times: int
) -> Iterator[tuple[Collective, int]]:
    for line in bodies.get(name, []):
        instruction = _INSTRUCTION.match(line)
        if not instruction:
            continue
        kind = instruction[2].removesuffix("-start")
        if kind in _KINDS:
            yield _collective(kind, instruction[1], instruction[2] != kind), times
            continue
        trips = _TRIPS.search(line) if kind == "while" else None
        inside = times * int(trips[1]) if trips else times
        called = _CALLED.findall(line)
        for branches in _BRANCHES.findall(line):
            called += re.findall(r"[\w.\-]+", branches)
        for other in called:
            yield from _walk(bodies, other, inside)


def _collective(kind: str, result: str, started: bool) -> Collective:
    arrays = list(_ARRAY.finditer(result))
    # The result of a `-start` operation is its operands followed by its results.
    if started and kind != "all-reduce" and len(arrays) > 1:
        arrays = arrays[len(arrays) // 2 :][:1]
    sizes = []
    for array in arrays:
        size = int(array[2] or 8) // 8
        for length in filter(None, array[3].split(",")):
            size *= int(length)
        sizes.append(size)
    return Collective(kind, " ".join(array[0] for array in arrays), sum(sizes))
