"""The demo's clips: groups of four that only someone who sees order can tell apart.

A group is a clip, its time-reversed twin, a variant with the same last frame but
another beginning, and the variant's twin. Neither the first nor the last frame alone
decides between the four.
"""

import dataclasses
import math

import numpy as np

from data_pipelines.demo import captions as words
from data_pipelines.demo.drawing import (
    BACKGROUNDS,
    COLOURS,
    SHAPES,
    Drawing,
    draw,
)

FRAMES = 24
GROUP = 4
# Groups that share a cast.
CAST_GROUPS = 4
SPLITS = {"train": 640, "validation": 96, "test": 256}
RADII = {"small": 0.085, "large": 0.15}
# Centres of the 3x3 grid's cells; the gaps between them keep the phrases apart.
CENTRES = (0.19, 0.5, 0.81)
# Distance of two objects that meet, and of two that are apart, from the centre.
NEAR, FAR = 0.12, 0.34


@dataclasses.dataclass(frozen=True)
class Track:
    """One object over a clip: `(time, value)` key points, straight between them.

    Attributes:
        shape: name of the shape.
        x: key points of the centre from the left, as `y`, in shares of the image.
        y: key points of the centre from the top.
        radius: key points.
        angle: key points, radians.
        colour: key points of RGB.
        opacity: key points.
    """

    shape: str
    x: tuple
    y: tuple
    radius: tuple
    colour: tuple
    angle: tuple = ((0.0, 0.0),)
    opacity: tuple = ((0.0, 1.0),)


@dataclasses.dataclass(frozen=True)
class ClipSpec:
    """One clip.

    Attributes:
        clip_id: unique over all splits.
        family: the kind of event.
        group: number of its group of four.
        twin: 1 for the time-reversed clip of a pair.
        variant: 1 for the pair that shares its last frame with the other pair.
        background: name of the colour.
        tracks: its objects, before any reversal.
        sentences: the three wordings of what happens, reversal included.
    """

    clip_id: str
    family: str
    group: int
    twin: int
    variant: int
    background: str
    tracks: tuple[Track, ...]
    sentences: tuple[str, ...]


@dataclasses.dataclass(frozen=True)
class Cast:
    """What the groups of a scene have in common.

    Attributes:
        shape: of the main object (an arrow where the event is a swing).
        colour: of the main object.
        size: of the main object.
        cell: where things happen that happen in one place.
        background: name of the colour.
    """

    shape: str
    colour: str
    size: str
    cell: int
    background: str


@dataclasses.dataclass(frozen=True)
class _Event:
    """What happens, forwards and backwards."""

    family: str
    tracks: tuple[Track, ...]
    forwards: tuple[str, ...]
    backwards: tuple[str, ...]


def _values(points: tuple, times: np.ndarray) -> np.ndarray:
    """Key points at the times, `[T]` or `[T, C]`."""
    at = [time for time, _ in points]
    values = np.asarray([value for _, value in points], np.float32)
    if values.ndim == 1:
        return np.interp(times, at, values)
    return np.stack([np.interp(times, at, v) for v in values.T], axis=-1)


def clip_drawing(spec: ClipSpec, moments: np.ndarray) -> Drawing:
    """The drawing of a clip at some of its frames, `moments` `[N]` from 0 to 23."""
    moments = FRAMES - 1 - moments if spec.twin else moments
    times = moments / (FRAMES - 1)

    def stack(field: str) -> np.ndarray:
        return np.stack(
            [_values(getattr(track, field), times) for track in spec.tracks], axis=1
        )

    shapes = [SHAPES.index(track.shape) for track in spec.tracks]
    background = np.asarray(BACKGROUNDS[spec.background], np.float32)
    return Drawing(
        shape=np.tile(shapes, (len(times), 1)),
        x=stack("x"),
        y=stack("y"),
        radius=stack("radius"),
        angle=stack("angle"),
        colour=stack("colour"),
        opacity=stack("opacity"),
        background=np.tile(background, (len(times), 1)),
    )


def render_clip(spec: ClipSpec, size: int = 96) -> np.ndarray:
    """All frames of a clip, `uint8 [24, size, size, 3]`."""
    return draw(clip_drawing(spec, np.arange(FRAMES)), size)


def captions_of(spec: ClipSpec) -> tuple[str, ...]:
    """The clip's 12 captions, wording by wording."""
    return tuple(
        caption
        for sentence in spec.sentences
        for caption in words.templates(sentence, spec.background)
    )


def _still(value) -> tuple:
    return ((0.0, value),)


def _centre(cell: int) -> tuple[float, float]:
    return CENTRES[cell % 3], CENTRES[cell // 3]


def _object(shape, paint, size, cell, **tracks) -> Track:
    """An object at rest but for what `tracks` says."""
    x, y = _centre(cell)
    at_rest = {
        "x": _still(x),
        "y": _still(y),
        "radius": _still(RADII[size]),
        "colour": _still(COLOURS[paint]),
    }
    return Track(shape, **{**at_rest, **tracks})


def _path(cells) -> dict[str, tuple]:
    """Key points through the cells at constant pace."""
    times = np.linspace(0, 1, len(cells))
    return {
        axis: tuple(
            (float(t), _centre(cell)[i]) for t, cell in zip(times, cells, strict=True)
        )
        for i, axis in enumerate("xy")
    }


def _pick(rng, values, count=None):
    """Different values, in random order."""
    chosen = rng.permutation(len(values))[: count or 1]
    picked = [values[i] for i in chosen]
    return picked if count else picked[0]


_PLAIN = SHAPES[:-1]
_COLOURS = tuple(COLOURS)


def sample_cast(rng: np.random.Generator) -> Cast:
    """A random cast."""
    return Cast(*_looks(rng), int(rng.integers(9)), _pick(rng, tuple(BACKGROUNDS)))


def _looks(rng) -> tuple[str, str, str]:
    return _pick(rng, _PLAIN), _pick(rng, _COLOURS), _pick(rng, words.SIZES)


def _others(rng, values, value, count):
    """Different values, none of them the given one."""
    return _pick(rng, [x for x in values if x != value], count)


def _move(rng, cast: Cast) -> tuple[_Event, _Event]:
    shape, colour, size = cast.shape, cast.colour, cast.size
    start, other, end = _pick(rng, range(9), 3)

    def event(a, b):
        noun = words.thing(colour, shape, size)

        def say(a, b):
            return tuple(
                f"{noun} {verb} from {words.place(a)} to {words.place(b)}"
                for verb in words.MOVES
            )

        track = _object(shape, colour, size, a, **_path((a, b)))
        return _Event("move", (track,), say(a, b), say(b, a))

    return event(start, end), event(other, end)


def _turn(rng, cast: Cast) -> tuple[_Event, _Event]:
    # Two legs along a rectangle: the variant swaps them, so both ends are the same.
    shape, colour, size = cast.shape, cast.colour, cast.size
    rows, columns = _pick(rng, range(3), 2), _pick(rng, range(3), 2)
    a, c = 3 * rows[0] + columns[0], 3 * rows[1] + columns[1]
    corners = _pick(rng, (3 * rows[0] + columns[1], 3 * rows[1] + columns[0]), 2)

    def event(b):
        noun = words.thing(colour, shape, size)

        def say(a, c):
            return tuple(
                f"{noun} {verb} from {words.place(a)} to {words.place(b)} "
                f"and then to {words.place(c)}"
                for verb in words.MOVES
            )

        track = _object(shape, colour, size, a, **_path((a, b, c)))
        return _Event("turn", (track,), say(a, c), say(c, a))

    return event(corners[0]), event(corners[1])


def _size(rng, cast: Cast) -> tuple[_Event, _Event]:
    # A thing that has grown and one that has appeared end alike; so do their starts
    # when run backwards.
    shape, colour, cell = cast.shape, cast.colour, cast.cell
    end = _pick(rng, words.SIZES)
    noun = f"{words.thing(colour, shape)} at {words.place(cell)}"
    other = "small" if end == "large" else "large"
    verbs = words.GROWS if end == "large" else words.GROWS[::-1]
    radius = ((0.15, RADII[other]), (0.85, RADII[end]))
    grown = _Event(
        "size",
        (_object(shape, colour, end, cell, radius=radius),),
        *(tuple(f"{noun} {verb}" for verb in group) for group in verbs),
    )
    noun = f"{words.thing(colour, shape, end)} at {words.place(cell)}"
    opacity = ((0.35, 0.0), (0.65, 1.0))
    appeared = _Event(
        "appear",
        (_object(shape, colour, end, cell, opacity=opacity),),
        *(tuple(f"{noun} {verb}" for verb in group) for group in words.APPEARS),
    )
    return grown, appeared


def _swing(rng, cast: Cast) -> tuple[_Event, _Event]:
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
        return _Event("swing", (track,), say(start, end), say(end, start))

    first, second = _pick(rng, (1, -1), 2)
    return event(first), event(second)


def _colour(rng, cast: Cast) -> tuple[_Event, _Event]:
    shape, size, cell, end = cast.shape, cast.size, cast.cell, cast.colour
    start, other = _others(rng, _COLOURS, end, 2)

    def event(a):
        noun = f"a {size} {shape} at {words.place(cell)}"

        def say(a, b):
            return tuple(f"{noun} {verb} from {a} to {b}" for verb in words.TURNS)

        colour = ((0.3, COLOURS[a]), (0.7, COLOURS[end]))
        track = _object(shape, a, size, cell, colour=colour)
        return _Event("colour", (track,), say(a, end), say(end, a))

    return event(start), event(other)


def _sequence(rng, cast: Cast) -> tuple[_Event, _Event]:
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
            _object(*first, cell, opacity=before),
            _object(*end, cell, opacity=after),
        )
        return _Event("sequence", tracks, say(first, end), say(end, first))

    return event(start), event(other)


def _gather(rng, cast: Cast) -> tuple[_Event, _Event]:
    # Two things end side by side; both came, or only one of them did.
    shapes = [cast.shape, *_others(rng, _PLAIN, cast.shape, 1)]
    colours = [cast.colour, *_others(rng, _COLOURS, cast.colour, 1)]
    axis = "xy"[int(rng.integers(2))]
    nouns = [words.thing(c, s) for c, s in zip(colours, shapes, strict=True)]

    def event(movers):
        tracks = []
        for i, sign in enumerate((-1, 1)):
            start = FAR if i in movers else NEAR
            path = ((0.0, 0.5 + sign * start), (1.0, 0.5 + sign * NEAR))
            tracks.append(
                _object(shapes[i], colours[i], "small", 4, **{axis: path})
            )
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
        return _Event("gather", tuple(tracks), *says)

    first, second = _pick(rng, ((0, 1), (0,), (1,)), 2)
    return event(first), event(second)


EVENTS = (_move, _turn, _size, _swing, _colour, _sequence, _gather)
FAMILIES = ("move", "turn", "size", "appear", "swing", "colour", "sequence", "gather")


def sample_group(
    rng: np.random.Generator, group: int = 0, cast: Cast | None = None
) -> list[ClipSpec]:
    """Four clips: a clip, its twin, the variant, the variant's twin."""
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
    """The clips of each split, group after group.

    Four groups have one cast, so that to know what is where does not find a clip: what
    happens does. No sentence occurs twice, in one split or over two, so that a caption
    has one right clip and a test caption was never trained on.
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
