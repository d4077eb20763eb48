"""Captioned still images on which the demo's backbone is pre-trained.

They come in groups of four that differ in a single attribute and are in the same batch:
in a random batch a model can tell captions apart without learning, for example,
positions.
"""

import dataclasses
import math

import numpy as np

from data_pipelines.datasets.demo import captions as words
from data_pipelines.datasets.demo.clip import FRAMES, ClipSpec, clip_drawing
from data_pipelines.datasets.demo.drawing import (
    BACKGROUNDS,
    COLOURS,
    SHAPES,
    Drawing,
    draw,
)
from data_pipelines.datasets.demo.events import CENTRES, FAMILIES, RADII
from data_pipelines.datasets.demo.world import GROUP, sample_group

# The attributes that auxiliary heads predict -> the number of classes.
ATTRIBUTES = {
    "size": len(words.SIZES),
    "colour": len(COLOURS),
    "shape": len(SHAPES),
    "x": 3,
    "y": 3,
    "background": len(BACKGROUNDS),
    "direction": len(words.DIRECTIONS),
    "relation": len(words.RELATIONS),
    "family": len(FAMILIES),
}
_COLOURS, _BACKGROUNDS = tuple(COLOURS), tuple(BACKGROUNDS)
# Fraction of groups that are stills of events, and of the rest: pairs, arrows.
_EVENTS, _PAIRS, _ARROWS = 0.4, 0.15, 0.15
# Fraction of event groups whose captions say when. Without them the text tower learns
# that "from a to b" and "from b to a" mean the same, which no prompt could undo.
_TIMED = 0.75
# Fraction of the others that are taken near the end of a clip, as photographs of an
# event often are. At 1 the last frame alone would identify the event.
_LATE = 0.6
# Fraction of captions that name every attribute.
_COMPLETE = 0.85


@dataclasses.dataclass(frozen=True)
class Scene:
    """One or two static objects, as indices into the tables of names.

    Attributes:
        shape: of the first object.
        colour: of the first object.
        size: of the first object.
        cell: of the 3x3 grid.
        background: its colour.
        direction: where an arrow points, in quarter turns from right.
        other: (shape, colour, relation) of a second object, or None.
    """

    shape: int
    colour: int
    size: int
    cell: int
    background: int
    direction: int = 0
    other: tuple[int, int, int] | None = None


def random_scene(rng: np.random.Generator, kind: str = "single") -> Scene:
    """Samples a scene of a kind: `single`, `arrow` or `pair`."""
    scene = Scene(
        shape=int(rng.integers(len(SHAPES) - 1)),
        colour=int(rng.integers(len(_COLOURS))),
        size=int(rng.integers(2)),
        cell=int(rng.integers(9)),
        background=int(rng.integers(len(_BACKGROUNDS))),
        direction=int(rng.integers(4)),
    )
    if kind == "arrow":
        return dataclasses.replace(scene, shape=SHAPES.index("arrow"))
    if kind == "pair":
        other = (
            (scene.shape + 1 + int(rng.integers(len(SHAPES) - 2))) % (len(SHAPES) - 1),
            (scene.colour + 1 + int(rng.integers(len(_COLOURS) - 1))) % len(_COLOURS),
            int(rng.integers(4)),
        )
        return dataclasses.replace(scene, size=0, cell=4, other=other)
    return scene


def describe(
    rng: np.random.Generator, scene: Scene, complete: bool
) -> tuple[str, dict[str, int]]:
    """A caption and the attributes it names."""
    drop = 0.0 if complete else 0.5
    named = {"colour": scene.colour, "shape": scene.shape}
    size = ""
    if scene.other is None and rng.random() >= drop:
        named["size"], size = scene.size, words.SIZES[scene.size]
    caption = words.thing(_COLOURS[scene.colour], SHAPES[scene.shape], size)
    if SHAPES[scene.shape] == "arrow" and rng.random() >= drop:
        named["direction"] = scene.direction
        caption += f" pointing {words.DIRECTIONS[scene.direction]}"
    if scene.other is not None:
        shape, colour, relation = scene.other
        named["relation"] = relation
        second = words.thing(_COLOURS[colour], SHAPES[shape])
        caption += f" {words.RELATIONS[relation]} {second}"
    elif rng.random() >= drop:
        named["x"], named["y"] = scene.cell % 3, scene.cell // 3
        caption += f" at {words.place(scene.cell)}"
    forms = words.templates(caption, _BACKGROUNDS[scene.background])
    with_background = rng.random() >= drop
    if with_background:
        named["background"] = scene.background
    return forms[2 * with_background + int(rng.integers(2))], named


def scenes_drawing(rng: np.random.Generator, scenes: list[Scene]) -> Drawing:
    """The drawing of scenes, with random offsets of position and size."""
    count = len(scenes)
    shape = np.zeros((count, 2), np.int64)
    x, y, radius, angle = (np.zeros((count, 2)) for _ in range(4))
    colour = np.zeros((count, 2, 3))
    for n, scene in enumerate(scenes):
        shape[n, 0] = scene.shape
        x[n], y[n] = CENTRES[scene.cell % 3], CENTRES[scene.cell // 3]
        radius[n, 0] = RADII[words.SIZES[scene.size]]
        angle[n, 0] = scene.direction * math.pi / 2
        colour[n, 0] = COLOURS[_COLOURS[scene.colour]]
        if scene.other is not None:
            shape[n, 1], paint, relation = scene.other
            radius[n, 1] = RADII["small"]
            colour[n, 1] = COLOURS[_COLOURS[paint]]
            # left of, right of, above, below
            axis, sign = (x, y)[relation // 2], (-1, 1)[relation % 2]
            apart = rng.uniform(0.11, 0.35)
            axis[n] += np.array([sign, -sign]) * apart
    jitter = rng.uniform(-0.035, 0.035, (2, count, 1))
    return Drawing(
        shape=shape,
        x=x + jitter[0],
        y=y + jitter[1],
        radius=radius * rng.uniform(0.92, 1.08, (count, 1)),
        angle=angle,
        colour=colour,
        opacity=np.ones((count, 2)),
        background=np.array(
            [BACKGROUNDS[_BACKGROUNDS[scene.background]] for scene in scenes]
        ),
    )


def _varied(rng: np.random.Generator, kind: str) -> list[Scene]:
    """Four scenes that differ in one attribute."""
    base = random_scene(rng, kind)
    if kind == "pair":
        shape, colour, relation = base.other or (0, 0, 0)
        if rng.random() < 0.6:
            return [
                dataclasses.replace(base, other=(shape, colour, r)) for r in range(4)
            ]
        # The same two objects, swapped, in both orders.
        opposite = relation ^ 1
        swapped = dataclasses.replace(base, shape=shape, colour=colour)
        own = (base.shape, base.colour)
        return [
            base,
            dataclasses.replace(base, other=(shape, colour, opposite)),
            dataclasses.replace(swapped, other=(*own, relation)),
            dataclasses.replace(swapped, other=(*own, opposite)),
        ]
    values = {
        "colour": len(_COLOURS),
        "cell": 9,
        "background": len(_BACKGROUNDS),
        **({"direction": 4} if kind == "arrow" else {"shape": len(SHAPES) - 1}),
    }
    choice = rng.choice(
        [*values, "cell", "size", "direction" if kind == "arrow" else "shape"]
    )
    if choice == "size":
        # There are only two sizes, hence two pairs that also differ in the cell.
        cells = rng.permutation(9)[:2]
        return [
            dataclasses.replace(base, size=size, cell=int(cell))
            for cell in cells
            for size in range(2)
        ]
    picked = rng.permutation(values[choice])[:GROUP]
    return [dataclasses.replace(base, **{choice: int(value)}) for value in picked]


def _events(rng: np.random.Generator, groups: int):
    """Stills of clips, with the captions of the clips."""
    drawings, captions, named = [], [], []

    def add(clip: ClipSpec, moment: int, when: str = "") -> None:
        form = int(rng.integers(words.TEMPLATES))
        sentence = when + clip.sentences[int(rng.integers(words.WORDINGS))]
        captions.append(words.templates(sentence, clip.background)[form])
        attributes = {"family": FAMILIES.index(clip.family)}
        if form >= 2:
            attributes["background"] = _BACKGROUNDS.index(clip.background)
        named.append(attributes)
        drawings.append(clip_drawing(clip, np.array([moment])))

    for _ in range(groups):
        if rng.random() < _TIMED:
            # Each clip and its twin, both at the beginning or both at the end.
            clips = sample_group(rng)
            for pair in (clips[:2], clips[2:]):
                time, early = int(rng.integers(2)), int(rng.integers(FRAMES // 3))
                for clip in pair:
                    add(clip, (early, FRAMES - 1 - early)[time], words.TIMES[time])
            continue
        # Two events, each with its variant; either direction of time.
        for _ in range(2):
            clips = sample_group(rng)
            for variant in range(2):
                clip = clips[2 * variant + int(rng.integers(2))]
                late = rng.random() < _LATE
                add(clip, int(rng.integers(FRAMES * 2 // 3 if late else 0, FRAMES)))
    return [_two_objects(drawing) for drawing in drawings], captions, named


def _two_objects(drawing: Drawing) -> Drawing:
    """Pads to two objects; the second is not drawn."""
    if drawing.shape.shape[1] == 2:
        return drawing
    return Drawing(
        **{
            field: value
            if field == "background"
            else np.concatenate([value, np.zeros_like(value)], axis=1)
            for field, value in vars(drawing).items()
        }
    )


def sample_still_groups(
    rng: np.random.Generator, groups: int, size: int = 48
) -> tuple[np.ndarray, list[str], dict[str, np.ndarray]]:
    """Samples still images in groups of four.

    Args:
        rng: random generator.
        groups: number of groups.
        size: height and width, pixels.

    Returns:
        Images `uint8 [4 * groups, size, size, 3]`, their captions, and each attribute's
        index `int32 [4 * groups]`, -1 where the caption does not name it.
    """
    events = int(rng.binomial(groups, _EVENTS))
    drawings, captions, named = _events(rng, events)
    scenes = []
    for _ in range(groups - events):
        draw_kind = rng.random()
        kind = "single"
        if draw_kind < _PAIRS + _ARROWS:
            kind = "pair" if draw_kind < _PAIRS else "arrow"
        scenes += _varied(rng, kind)
    for scene in scenes:
        caption, attributes = describe(rng, scene, rng.random() < _COMPLETE)
        captions.append(caption)
        named.append(attributes)
    if scenes:
        drawings.append(scenes_drawing(rng, scenes))
    whole = Drawing(
        **{
            field: np.concatenate([getattr(drawing, field) for drawing in drawings])
            for field in vars(drawings[0])
        }
    )
    attributes = {
        name: np.array([x.get(name, -1) for x in named], np.int32)
        for name in ATTRIBUTES
    }
    return draw(whole, size), captions, attributes
