"""The paper's tables and figures as data: the cells that each study compares."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from data_pipelines.console.names import pick
from vop_jax.model.methods import METHODS

# Prompts per layer in the paper's setting, shared and specific ones together.
LENGTH = 8


class Published(NamedTuple):
    """The paper's results on MSR-VTT-9k, test 1k-A: t2v R@1, R@5, R@10 and v2t R@1."""

    t2v: tuple[float, float, float]
    v2t_r1: float | None = None


@dataclasses.dataclass(frozen=True)
class Cell:
    """One configuration of a study.

    Attributes:
        name: unique in the study; also the name of its folder.
        method: a row of the method table.
        changes: configuration field (with dots) -> value, instead of the default.
        published: the paper's metrics; None if it reports none.
        series: the curve that this cell is a point of; empty in a table.
        x: the x value on that curve.
    """

    name: str
    method: str
    changes: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    published: Published | None = None
    series: str = ""
    x: float = 0


@dataclasses.dataclass(frozen=True)
class Study:
    """A table or figure of the paper.

    Attributes:
        title: what it compares.
        cells: number of layers of the vision tower -> the cells.
    """

    title: str
    cells: Callable[[int], list[Cell]]


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
    "table2": Study("Which towers are prompted", _branches),
    "table3": Study("What models the context", _context_models),
    "table4": Study("What the context is used for", _context_roles),
    "fig4": Study("Depth and length of the prompts", _depth_and_length),
    "fig5": Study("Specific prompts among the 8 of a layer", _specific_length),
    "fig6": Study("Where the joint layers begin", _split_layer),
}


def find_study(name: str) -> Study:
    """The study of that name.

    Raises:
        UserError: there is none.
    """
    return pick(STUDIES, name, "study")
