"""Every configuration field with its meaning, default and allowed values, for `--help`.

The meaning comes from the docstring of the field's class, section `Attributes:`.
"""

import dataclasses
import inspect
import re
import typing
from typing import Any, NamedTuple

from data_pipelines.catalog.table import DATASETS, Dataset
from data_pipelines.console.names import closest, likeness, shortened
from data_pipelines.console.ranges import Range, field_ranges, read_number
from vop_jax.model.methods import METHODS
from vop_jax.runtime.run_folder import flat_fields
from vop_jax.training.config import CHOICES, RunConfig, default_values

# How similar the last part of a field's name must be if the rest differs.
_ALIKE = 0.75

# Types of fields that not every text can be converted to.
_NUMBERS = {"int": int, "float": float}
# Fields that name a row of a table.
_TABLES = {"method": tuple(METHODS), "dataset": tuple(DATASETS)}


class Field(NamedTuple):
    """A field of the configuration.

    Attributes:
        name: with its groups, as in `optimizer.learning_rate`.
        kind: the name of its type.
        default: its default value.
        meaning: what it is.
        choices: the allowed values; empty if they are not a fixed set.
        within: the range of a number.
    """

    name: str
    kind: str
    default: Any
    meaning: str
    choices: tuple[str, ...]
    within: Range | None


def meanings(kind: type) -> dict[str, str]:
    """Parses the `Attributes:` section of a dataclass's docstring."""
    text = inspect.getdoc(kind) or ""
    section = text.partition("\nAttributes:\n")[2]
    found: dict[str, str] = {}
    name = ""
    for line in section.splitlines():
        entry = re.match(r"    (\w+): (.*)", line)
        if entry:
            name, found[entry[1]] = entry[1], entry[2].strip()
        elif name and line.startswith("        "):
            found[name] += f" {line.strip()}"
        elif line.strip():
            break
    return found


def all_fields(values: dict[str, Any] | None = None) -> list[Field]:
    """Every field that `--config.NAME` sets, in the order of their classes.

    Args:
        values: the nested defaults; those of the demo if not given.
    """
    defaults = flat_fields(default_values() if values is None else values)
    return [x for x in _walk(RunConfig, "", defaults) if x.name in defaults]


def _walk(kind: type, prefix: str, defaults: dict[str, Any]) -> typing.Iterator[Field]:
    types, about = typing.get_type_hints(kind), meanings(kind)
    ranges = field_ranges(kind)
    for field in dataclasses.fields(kind):
        name, wanted = prefix + field.name, types[field.name]
        if dataclasses.is_dataclass(wanted):
            yield from _walk(typing.cast(type, wanted), f"{name}.", defaults)
        else:
            choices = _TABLES.get(name) or CHOICES.get(name, ())
            meaning = about.get(field.name, "")
            yield Field(
                name,
                wanted.__name__,
                defaults.get(name),
                meaning,
                choices,
                ranges.get(field.name),
            )


def overview(short_form: dict[str, str]) -> list[tuple[str, list[tuple[str, str]]]]:
    """Titles with rows of (name, text): methods, data sets, fields.

    Args:
        short_form: what the defaults depend on, see `config.parse_short_form`.

    Raises:
        UserError: it names an unknown method or data set.
    """
    values = default_values(**short_form)
    methods = [(name, method.about) for name, method in METHODS.items()]
    datasets = [(name, _about(row)) for name, row in DATASETS.items()]
    fields = [
        (f"--config.{field.name}={shown(field.default)}", described(field))
        for field in all_fields(values)
    ]
    chosen = f"method={values['method']},dataset={values['dataset']}"
    return [
        ("methods, --config=configs/vop.py:method=NAME", methods),
        ("data sets, --config=configs/vop.py:dataset=NAME", datasets),
        (f"fields of the configuration, with the defaults of {chosen}", fields),
    ]


def shown(value: Any) -> str:
    """A value as written after `--config.NAME=`."""
    return str(value).lower() if isinstance(value, bool) else str(value)


def described(field: Field) -> str:
    """The meaning of a field and its allowed values."""
    text = field.meaning[:1].upper() + field.meaning[1:]
    if field.choices:
        names = ", ".join(x or "(empty)" for x in field.choices)
        return f"{text} One of {names}."
    kind = "true or false" if field.kind == "bool" else field.kind
    return f"{text} ({kind}, {field.within})" if field.within else f"{text} ({kind})"


def _about(row: Dataset) -> str:
    if row.rendered:
        return "embedded in the project, rendered when it is first needed"
    counts = [
        f"{name} {videos:,} videos"
        for name, (videos, _) in row.published.items()
        if videos
    ]
    return (
        f"{', '.join(counts) or 'any number of videos'}, {row.num_frames} frames each"
    )


def unknown_field(name: str) -> str:
    """The error for an unknown field; empty if the field exists.

    Args:
        name: without `config.`, for example `optimizer.learning_rat`.
    """
    known = [field.name for field in all_fields()]
    if name in known:
        return ""
    group = [x for x in known if x.startswith(f"{name}.")]
    if group:
        listed = ", ".join(f"config.{x}" for x in group)
        return f"config.{name} is a group of fields: set {listed}"
    question = " or ".join(f"config.{x}" for x in suggested_fields(name))
    question = f"; did you mean {question}?" if question else "; see --help"
    return f"{shortened(f'config.{name}')[1:-1]} is not a field{question}"


def wrong_value(name: str, text: str) -> str:
    """Why a text cannot be the value of a field; empty if its type allows it.

    Args:
        name: without `config.`, for example `epochs`.
        text: what stands behind `--config.NAME=`.
    """
    kinds = {field.name: field.kind for field in all_fields()}
    kind = _NUMBERS.get(kinds.get(name, ""))
    try:
        if kind:
            read_number(text, kind)
    except ValueError as error:
        return f"config.{name} is {shortened(text)}; {error}"
    return ""


def suggested_fields(name: str) -> list[str]:
    """Fields that may have been meant: similar in full or in their last part."""
    known = [field.name for field in all_fields()]
    last = name.rpartition(".")[2]
    same = [x for x in known if x.rpartition(".")[2] == last]
    if same:
        return same
    # Such as lr for learning_rate.
    initials = [
        "".join(word[:1] for word in x.rpartition(".")[2].split("_")) for x in known
    ]
    short = [
        x for x, y in zip(known, initials, strict=True) if len(y) > 1 and y == last
    ]
    if short:
        return short
    alike = [x for x in known if likeness(last, x.rpartition(".")[2]) > _ALIKE]
    return closest(name, alike) or alike[:3] or closest(name, known)
