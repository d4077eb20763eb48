"""The paper's tables and figures, and later methods: the cells each study compares."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from data_pipelines.console.names import pick
from data_pipelines.console.ranges import Range
from vop_jax.model.methods import METHODS

# Prompts per layer in the paper's setting, shared and specific ones together.
LENGTH = 8
# Factors on a learning rate that a search may try.
RATES = Range(0, 1_000_000, above=True)


# The backbone of the paper's tables: figures of another one are not beside these.
PATCHES = "B/32"


class Published(NamedTuple):
    """Printed results on MSR-VTT-9k, test 1k-A; None is what is not known.

    Attributes:
        t2v: R@1, R@5 and R@10.
        v2t_r1: R@1.
        backbone: the size of the CLIP; its patches.
        millions: of trained parameters.
    """

    t2v: tuple[float | None, float | None, float | None] = (None, None, None)
    v2t_r1: float | None = None
    backbone: str = PATCHES
    millions: float | None = None


@dataclasses.dataclass(frozen=True)
class Cell:
    """One configuration of a study.

    Attributes:
        name: unique in the study; also the name of its folder.
        method: a row of the method table.
        changes: configuration field (with dots) -> value, instead of the default.
        published: the printed metrics; None if there are none.
        series: the curve that this cell is a point of; empty in a table.
        x: the x value on that curve.
        rate_of: the cell whose search this one takes its learning rate from, where one
            recipe serves several methods; empty means a search of its own.
    """

    name: str
    method: str
    changes: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    published: Published | None = None
    series: str = ""
    x: float = 0
    rate_of: str = ""


@dataclasses.dataclass(frozen=True)
class Study:
    """A table or figure.

    Attributes:
        title: what it compares.
        cells: number of layers of the vision tower -> the cells.
        axes: series -> what varies along its curve.
        costs_of: the cell that the work of the others is relative to; empty if work
            and speed are not measured.
    """

    title: str
    cells: Callable[[int], list[Cell]]
    axes: Mapping[str, str] = dataclasses.field(default_factory=dict)
    costs_of: str = ""


_TABLE_1 = {
    "full": Published((41.7, 69.2, 79.0), 42.5),
    "bias": Published((39.7, 66.5, 77.3), 41.1),
    "proj": Published((37.1, 63.0, 76.1), 37.2),
    "partial": Published((39.8, 65.3, 75.9), 37.9),
    "adapter_attn": Published((37.6, 63.2, 75.8), 39.6),
    "adapter_ffn": Published((38.2, 63.5, 76.4), 39.9),
    "vop": Published((39.6, 66.7, 77.8), 42.1),
    "vop_p": Published((40.1, 65.7, 77.7), 42.5),
    "vop_c": Published((40.8, 68.1, 79.0), 42.3),
    "vop_f": Published((42.6, 68.4, 78.7), 42.4),
    "vop_fp": Published((43.5, 69.3, 79.3), 43.6),
    "vop_fc": Published((44.6, 69.9, 80.3), 44.5),
    # From Table 2.
    "zero_shot": Published((31.5, 52.8, 63.6)),
}


def _methods(layers: int) -> list[Cell]:
    del layers
    return [Cell(name, name, published=_TABLE_1.get(name)) for name in METHODS]


# Printed by the methods' authors, or in the table of STOP's repository, which has the
# parameters too. DiscoVLA's is of another backbone; of TempMe the parameters alone are
# known.
_SINCE = {
    "vop": _TABLE_1["vop"],
    "vop_fc": _TABLE_1["vop_fc"]._replace(millions=14.10),
    "discovla": Published((50.5, None, None), backbone="B/16"),
    "tempme": Published(millions=0.50),
    "dgl_linear": Published((44.7, 70.5, 79.2), 42.1, millions=0.83),
    "dgl_transformer": Published((45.8, 69.3, 79.4), 43.5, millions=9.57),
}
# What is compared, as far as the table of methods has it.
_SINCE_ROWS = (
    *("vop", "vop_fc", "lora", "vop_lora", "ivfusion", "discovla", "tempme"),
    *("mv_adapter", "dgl_linear", "dgl_transformer"),
)
# Methods of one family of papers, with one recipe.
_FAMILY: Mapping[str, str] = dict.fromkeys(("ivfusion", "discovla", "tempme"), "lora")


def _methods_since(layers: int) -> list[Cell]:
    del layers
    return [
        Cell(name, name, published=_SINCE.get(name), rate_of=_FAMILY.get(name, ""))
        for name in _SINCE_ROWS
        if name in METHODS
    ]


def _branches(layers: int) -> list[Cell]:
    del layers
    text = {"prompts.video_length": 0}
    video = {"prompts.text_length": 0}
    return [
        Cell("none", "zero_shot", published=_TABLE_1["zero_shot"]),
        Cell("text", "vop", text, Published((36.5, 62.7, 75.1))),
        Cell("visual", "vop", video, Published((36.3, 63.4, 75.0))),
        Cell("both", "vop", published=_TABLE_1["vop"]),
    ]


def _context_models(layers: int) -> list[Cell]:
    del layers
    published = {
        "transformer": Published((40.1, 68.2, 78.8)),
        "lstm": Published((40.6, 69.5, 79.7)),
        "bilstm": Published((40.8, 68.1, 79.0)),
    }
    return [
        Cell(name, "vop_c", {"prompts.cmm": name}, figures)
        for name, figures in published.items()
    ]


def _context_roles(layers: int) -> list[Cell]:
    del layers
    # One token is added to the class token; all prompts are then shared.
    updating = {
        "prompts.cmm_role": "update_cls",
        "prompts.context_length": 1,
        "prompts.video_length": LENGTH,
    }
    return [
        Cell("update_cls", "vop_c", updating, Published((38.0, 63.6, 75.3))),
        Cell("prompts", "vop_c", published=_TABLE_1["vop_c"]),
    ]


def _sixths(layers: int) -> list[int]:
    """From 0 to all layers in steps of a sixth, as in the paper's figures."""
    return sorted({layers * i // 6 for i in range(7)})


def _depth_and_length(layers: int) -> list[Cell]:
    depths = [
        Cell(f"depth_{n}", "vop", {"prompts.last_layer": n}, series="depth", x=n)
        for n in _sixths(layers)
        if n
    ]
    lengths = [
        Cell(
            f"length_{n}",
            "vop",
            {"prompts.text_length": n, "prompts.video_length": n},
            series="length",
            x=n,
        )
        for n in (1, 2, 4, 8, 16)
    ]
    return depths + lengths


def _specific_length(layers: int) -> list[Cell]:
    del layers
    return [
        Cell(
            f"{kind}_{n}",
            name,
            {f"prompts.{kind}_length": n, "prompts.video_length": LENGTH - n},
            series=name,
            x=n,
        )
        for kind, name in (("position", "vop_p"), ("context", "vop_c"))
        for n in (0, 2, 4, 6, 8)
    ]


def _split_layer(layers: int) -> list[Cell]:
    return [
        Cell(f"split_{n}", "vop_f", {"prompts.split_layer": n}, series="vop_f", x=n)
        for n in _sixths(layers)
    ]


STUDIES = {
    "table1": Study("All methods", _methods),
    "since_vop": Study("Methods since VoP", _methods_since, costs_of="vop"),
    "table2": Study("Which towers are prompted", _branches),
    "table3": Study("What models the context", _context_models),
    "table4": Study("What the context is used for", _context_roles),
    "fig4": Study(
        "Depth and length of the prompts",
        _depth_and_length,
        {"depth": "last prompted layer", "length": "prompts of a layer"},
    ),
    "fig5": Study(
        "Specific prompts among the 8 of a layer",
        _specific_length,
        {"vop_p": "prompts of each frame position", "vop_c": "generated prompts"},
    ),
    "fig6": Study(
        "Where the joint layers begin",
        _split_layer,
        {"vop_f": "layers before the joint ones"},
    ),
}


def find_study(name: str) -> Study:
    """The study of that name.

    Raises:
        UserError: there is none.
    """
    return pick(STUDIES, name, "study")
