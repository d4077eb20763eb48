"""Writes the two reference pages of the site from the code, whenever it is built.

`reference/configuration.md` holds every field of the configuration,
`reference/python.md` every public name of `vop_jax`. MkDocs calls `on_files`.
"""

import inspect
import re
from collections.abc import Iterator
from typing import Any

from mkdocs.structure.files import File, Files

import vop_jax
from data_pipelines.catalog.table import DATASETS
from vop_jax.model.methods import METHODS
from vop_jax.training.config import default_values
from vop_jax.training.fields import Field, all_fields, shown

# The sections of a docstring whose lines are `name: text`.
_LISTS = ("Args", "Attributes", "Raises")
_SECTIONS = (*_LISTS, "Returns", "Yields")


def on_files(files: Files, config: Any) -> Files:
    """Adds the generated pages to those that lie in `docs`."""
    pages = {"configuration": configuration_page(), "python": python_page()}
    for name, text in pages.items():
        path = f"reference/{name}.md"
        files.append(File.generated(config, path, content=text))
    return files


def configuration_page() -> str:
    """Every field: its type, its default and its meaning, by group."""
    lines = [
        "# Configuration reference",
        "",
        "Every field is set with `--config.NAME=VALUE`. The defaults are those of",
        "`vop_fc` on the demo, and in brackets those on `msrvtt_9k` where they differ.",
        "",
    ]
    paper = {x.name: x for x in all_fields(default_values(dataset="msrvtt_9k"))}
    group = None
    for field in all_fields():
        new = field.name.rpartition(".")[0]
        if new != group:
            title = f"`{new}`" if new else "The run"
            lines += ["", f"## {title}", "", "| field | default | meaning |"]
            lines += ["|---|---|---|"]
            group = new
        lines.append(_row(field, paper[field.name]))
    lines += ["", "## Methods", "", "| method | what it trains |", "|---|---|"]
    lines += [f"| `{name}` | {row.about} |" for name, row in METHODS.items()]
    lines += ["", "## Data sets", "", *(f"- `{name}`" for name in DATASETS)]
    return "\n".join(lines) + "\n"


def _row(field: Field, paper: Field) -> str:
    default = f"`{shown(field.default)}`" if field.default != "" else "empty"
    if paper.default != field.default:
        other = f"`{shown(paper.default)}`" if paper.default != "" else "empty"
        default += f" ({other})"
    meaning = field.meaning[:1].upper() + field.meaning[1:]
    if field.choices:
        meaning += f" One of {', '.join(f'`{x}`' for x in field.choices if x)}."
    kind = f"{field.kind} {field.within}" if field.within else field.kind
    return f"| `{field.name}` ({kind}) | {default} | {meaning} |".replace("\n", " ")


def python_page() -> str:
    """Every public name with its signature and its docstring."""
    lines = ["# Python reference", ""]
    for name in vop_jax.__all__:
        value = getattr(vop_jax, name)
        if isinstance(value, str):
            continue
        lines += [f"## vop_jax.{name}", "", *_described(value, name)]
        if inspect.isclass(value):
            for method, member in _methods(value):
                lines += [f"### {name}.{method}", "", *_described(member, method)]
    return "\n".join(lines) + "\n"


def _methods(kind: type) -> Iterator[tuple[str, Any]]:
    # What a class of ours inherits from another one of ours is its own.
    homes = [x for x in kind.__mro__ if x.__module__.startswith("vop_jax")]
    for name, member in ((k, x) for home in homes for k, x in vars(home).items()):
        member = member.__func__ if isinstance(member, classmethod) else member
        known = inspect.isfunction(member) or isinstance(member, property)
        if not name.startswith("_") and known and inspect.getdoc(member):
            yield name, member


def _described(value: Any, name: str) -> list[str]:
    lines = []
    if inspect.isfunction(value):
        lines += ["```python", f"{name}{_signature(value)}", "```", ""]
    return [*lines, *markdown(inspect.getdoc(value) or ""), ""]


def _signature(function: Any) -> str:
    """The parameters with their annotations, one a line where they are many."""
    found = inspect.signature(function)
    parts, starred = [], False
    for parameter in found.parameters.values():
        if parameter.kind is parameter.KEYWORD_ONLY and not starred:
            parts.append("*")
            starred = True
        parts.append(str(parameter))
    text = f"({', '.join(parts)})"
    if len(text) > 60:
        text = "(\n    " + ",\n    ".join(parts) + ",\n)"
    # Where a type is defined says nothing to a reader.
    return re.sub(r"\b(?:\w+\.)+(?=[A-Z])", "", text)


def markdown(docstring: str) -> list[str]:
    """A Google-style docstring as Markdown.

    The entries of `Args`, `Attributes` and `Raises` become lists; an indented block of
    code stays one.
    """
    lines, section = [], ""
    for line in docstring.splitlines():
        heading = re.fullmatch(r"(\w+):", line)
        if heading and heading[1] in _SECTIONS:
            section = heading[1]
            lines += [f"**{section}**", ""]
            continue
        entry = re.match(r"    ([\w.]+): (.*)", line)
        if section in _LISTS and entry:
            lines.append(f"- `{entry[1]}`: {entry[2]}")
        elif section in _LISTS and line.strip():
            lines.append(f"  {line.strip()}")
        elif section:
            lines.append(line.strip())
        else:
            lines.append(line)
    return lines
