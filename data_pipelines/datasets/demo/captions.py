"""The captions of the demo: phrases for still images and for events."""

from collections.abc import Sequence

from data_pipelines.datasets.demo.drawing import BACKGROUNDS, COLOURS, SHAPES

CELLS = (
    ("the top left", "the top", "the top right"),
    ("the left", "the center", "the right"),
    ("the bottom left", "the bottom", "the bottom right"),
)
SIZES = ("small", "large")
DIRECTIONS = ("right", "up", "left", "down")
RELATIONS = ("left of", "right of", "above", "below")

# Three wordings of each event; a twin's caption has the same wording of the opposite.
MOVES = ("moves", "goes", "slides")
TURNS = ("turns", "changes", "goes")
SWINGS = ("turns", "swings", "rotates")
GROWS = (("grows", "gets bigger", "expands"), ("shrinks", "gets smaller", "contracts"))
APPEARS = (
    ("appears", "shows up", "comes into view"),
    ("disappears", "goes away", "vanishes"),
)
MEETS = (("come together", "meet", "gather"), ("move apart", "separate", "part"))
JOINS = (
    ("comes to", "joins", "approaches"),
    ("leaves", "moves away from", "goes away from"),
)
# The moment of a clip that a still image shows; put before a sentence.
TIMES = ("at the start ", "at the end ")
WORDINGS = 3
TEMPLATES = 4


def place(cell: int) -> str:
    """The phrase for a cell of the 3x3 grid, numbered row by row."""
    return CELLS[cell // 3][cell % 3]


def thing(colour: str, shape: str, size: str = "") -> str:
    """A noun phrase with its article."""
    words = " ".join(word for word in (size, colour, shape) if word)
    return f"a {words}"


def templates(sentence: str, background: str) -> tuple[str, ...]:
    """The four forms of a sentence."""
    return (
        sentence,
        f"here {sentence}",
        f"{sentence} on a {background} background",
        f"on a {background} background {sentence}",
    )


def vocabulary() -> list[str]:
    """Every word that a caption of the demo can hold, sorted."""
    phrases: list[Sequence[str]] = [
        SHAPES,
        tuple(COLOURS),
        tuple(BACKGROUNDS),
        SIZES,
        DIRECTIONS,
        RELATIONS,
        *CELLS,
        MOVES,
        TURNS,
        SWINGS,
        *GROWS,
        *APPEARS,
        *MEETS,
        *JOINS,
        TIMES,
        ("a here on background at and then first is followed by pointing to from",),
    ]
    return sorted({word for group in phrases for x in group for word in x.split()})
