"""The events of the clips, each with a variant that ends in the same frame."""

import dataclasses
import math
from collections.abc import Sequence
from typing import TypeVar

import numpy as np

from data_pipelines.datasets.demo import captions as words
from data_pipelines.datasets.demo.clip import Track
from data_pipelines.datasets.demo.drawing import BACKGROUNDS, COLOURS, SHAPES

T = TypeVar("T")
RADII = {"small": 0.085, "large": 0.15}
# Centres of the 3x3 grid's cells; the gaps between them keep the phrases apart.
CENTRES = (0.19, 0.5, 0.81)
# Distance from the centre of two objects that are together, and of two that are apart.
NEAR, FAR = 0.12, 0.34


@dataclasses.dataclass(frozen=True)
class Cast:
    """What several groups have in common: objects, place and background.

    Attributes:
        shape: of the main object (an arrow where the event is a swing).
        colour: of the main object.
        size: of the main object.
        cell: the place of events that happen in one place.
        background: name of the colour.
    """

    shape: str
    colour: str
    size: str
    cell: int
    background: str


@dataclasses.dataclass(frozen=True)
class Event:
    """An event, with the sentences for playing it forwards and backwards."""

    family: str
    tracks: tuple[Track, ...]
    forwards: tuple[str, ...]
    backwards: tuple[str, ...]


def _still(value) -> tuple:
    return ((0.0, value),)


def _centre(cell: int) -> tuple[float, float]:
    return CENTRES[cell % 3], CENTRES[cell // 3]


def _object(shape, paint, size, cell, **tracks) -> Track:
    """An object that is static except for the given `tracks`."""
    x, y = _centre(cell)
    at_rest = {
        "x": _still(x),
        "y": _still(y),
        "radius": _still(RADII[size]),
        "colour": _still(COLOURS[paint]),
    }
    return Track(shape, **{**at_rest, **tracks})


def _path(cells) -> dict[str, tuple]:
    """Key points through the cells at constant speed."""
    times = np.linspace(0, 1, len(cells))
    return {
        axis: tuple(
            (float(t), _centre(cell)[i]) for t, cell in zip(times, cells, strict=True)
        )
        for i, axis in enumerate("xy")
    }


def _some(rng: np.random.Generator, values: Sequence[T], count: int) -> list[T]:
    """Samples distinct values, in random order."""
    return [values[i] for i in rng.permutation(len(values))[:count]]


def _pick(rng: np.random.Generator, values: Sequence[T]) -> T:
    return _some(rng, values, 1)[0]


_PLAIN = SHAPES[:-1]
_COLOURS = tuple(COLOURS)


def sample_cast(rng: np.random.Generator) -> Cast:
    """Samples a cast."""
    return Cast(*_looks(rng), int(rng.integers(9)), _pick(rng, tuple(BACKGROUNDS)))


def _looks(rng) -> tuple[str, str, str]:
    return _pick(rng, _PLAIN), _pick(rng, _COLOURS), _pick(rng, words.SIZES)


def _others(rng, values, value, count):
    """Samples distinct values other than the given one."""
    return _some(rng, [x for x in values if x != value], count)


def _move(rng, cast: Cast) -> tuple[Event, Event]:
    shape, colour, size = cast.shape, cast.colour, cast.size
    start, other, end = _some(rng, range(9), 3)

    def event(a, b):
        noun = words.thing(colour, shape, size)

        def say(a, b):
            return tuple(
                f"{noun} {verb} from {words.place(a)} to {words.place(b)}"
                for verb in words.MOVES
            )

        track = _object(shape, colour, size, a, **_path((a, b)))
        return Event("move", (track,), say(a, b), say(b, a))

    return event(start, end), event(other, end)


def _turn(rng, cast: Cast) -> tuple[Event, Event]:
    # Two legs along a rectangle: the variant swaps them, so both ends are the same.
    shape, colour, size = cast.shape, cast.colour, cast.size
    rows, columns = _some(rng, range(3), 2), _some(rng, range(3), 2)
    a, c = 3 * rows[0] + columns[0], 3 * rows[1] + columns[1]
    corners = _some(rng, (3 * rows[0] + columns[1], 3 * rows[1] + columns[0]), 2)

    def event(b):
        noun = words.thing(colour, shape, size)

        def say(a, c):
            return tuple(
                f"{noun} {verb} from {words.place(a)} to {words.place(b)} "
                f"and then to {words.place(c)}"
                for verb in words.MOVES
            )

        track = _object(shape, colour, size, a, **_path((a, b, c)))
        return Event("turn", (track,), say(a, c), say(c, a))

    return event(corners[0]), event(corners[1])


def _size(rng, cast: Cast) -> tuple[Event, Event]:
    # An object that has grown and one that has appeared end in the same frame; played
    # backwards, they start in the same frame.
    shape, colour, cell = cast.shape, cast.colour, cast.cell
    end = _pick(rng, words.SIZES)
    noun = f"{words.thing(colour, shape)} at {words.place(cell)}"
    other = "small" if end == "large" else "large"
    verbs = words.GROWS if end == "large" else words.GROWS[::-1]
    radius = ((0.15, RADII[other]), (0.85, RADII[end]))
    grown = Event(
        "size",
        (_object(shape, colour, end, cell, radius=radius),),
        *(tuple(f"{noun} {verb}" for verb in group) for group in verbs),
    )
    noun = f"{words.thing(colour, shape, end)} at {words.place(cell)}"
    opacity = ((0.35, 0.0), (0.65, 1.0))
    appeared = Event(
        "appear",
        (_object(shape, colour, end, cell, opacity=opacity),),
        *(tuple(f"{noun} {verb}" for verb in group) for group in words.APPEARS),
    )
    return grown, appeared


def _swing(rng, cast: Cast) -> tuple[Event, Event]:
    colour, size, cell = cast.colour, cast.size, cast.cell
    end = int(rng.integers(4))
    noun = f"{words.thing(colour, 'arrow', size)} at {words.place(cell)}"

    def event(quarter):
        start = (end + quarter) % 4
        angle = ((0.1, (end + quarter) * math.pi / 2), (0.9, end * math.pi / 2))

        def say(a, b):
            return tuple(
                f"{noun} {verb} from pointing {words.DIRECTIONS[a]} "
                f"to pointing {words.DIRECTIONS[b]}"
                for verb in words.SWINGS
            )

        track = _object("arrow", colour, size, cell, angle=angle)
        return Event("swing", (track,), say(start, end), say(end, start))

    first, second = _some(rng, (1, -1), 2)
    return event(first), event(second)


def _colour(rng, cast: Cast) -> tuple[Event, Event]:
    shape, size, cell, end = cast.shape, cast.size, cast.cell, cast.colour
    start, other = _others(rng, _COLOURS, end, 2)

    def event(a):
        noun = f"a {size} {shape} at {words.place(cell)}"

        def say(a, b):
            return tuple(f"{noun} {verb} from {a} to {b}" for verb in words.TURNS)

        colour = ((0.3, COLOURS[a]), (0.7, COLOURS[end]))
        track = _object(shape, a, size, cell, colour=colour)
        return Event("colour", (track,), say(a, end), say(end, a))

    return event(start), event(other)


def _sequence(rng, cast: Cast) -> tuple[Event, Event]:
    cell = cast.cell
    end = (cast.shape, cast.colour, cast.size)
    looks = [end]
    while len(looks) < 3:
        look = _looks(rng)
        if look not in looks:
            looks.append(look)
    _, start, other = looks
    # The change falls between frames 11 and 12.
    before = ((0.49, 1.0), (0.51, 0.0))
    after = ((0.49, 0.0), (0.51, 1.0))

    def event(first):
        def say(a, b):
            one, two = (words.thing(x[1], x[0], x[2]) for x in (a, b))
            where = f"at {words.place(cell)}"
            return (
                f"{one} and then {two} {where}",
                f"first {one} then {two} {where}",
                f"{one} is followed by {two} {where}",
            )

        tracks = (
            _object(first[0], first[1], first[2], cell, opacity=before),
            _object(end[0], end[1], end[2], cell, opacity=after),
        )
        return Event("sequence", tracks, say(first, end), say(end, first))

    return event(start), event(other)


def _gather(rng, cast: Cast) -> tuple[Event, Event]:
    # Two objects end side by side: both moved, or only one of them did.
    shapes = [cast.shape, *_others(rng, _PLAIN, cast.shape, 1)]
    colours = [cast.colour, *_others(rng, _COLOURS, cast.colour, 1)]
    axis = "xy"[int(rng.integers(2))]
    nouns = [words.thing(c, s) for c, s in zip(colours, shapes, strict=True)]

    def event(movers):
        tracks = []
        for i, sign in enumerate((-1, 1)):
            start = FAR if i in movers else NEAR
            path = ((0.0, 0.5 + sign * start), (1.0, 0.5 + sign * NEAR))
            tracks.append(_object(shapes[i], colours[i], "small", 4, **{axis: path}))
        if len(movers) == 2:
            says = [
                tuple(f"{nouns[0]} and {nouns[1]} {verb}" for verb in group)
                for group in words.MEETS
            ]
        else:
            mover = movers[0]
            says = [
                tuple(f"{nouns[mover]} {verb} {nouns[1 - mover]}" for verb in group)
                for group in words.JOINS
            ]
        return Event("gather", tuple(tracks), *says)

    first, second = _some(rng, ((0, 1), (0,), (1,)), 2)
    return event(first), event(second)


EVENTS = (_move, _turn, _size, _swing, _colour, _sequence, _gather)
FAMILIES = ("move", "turn", "size", "appear", "swing", "colour", "sequence", "gather")
