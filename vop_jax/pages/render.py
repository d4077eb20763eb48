"""Renders HTML pages: each is one file that loads nothing from elsewhere."""

import functools
from pathlib import Path
from typing import Any

import jinja2

from data_pipelines.console.counted import counted

TEMPLATES = Path(__file__).parent / "templates"


def render(template: str, **values: Any) -> str:
    """Renders a template; values are escaped, so they are text and never markup."""
    return _environment().get_template(template).render(**values)


@functools.cache
def _environment() -> jinja2.Environment:
    """Keeps compiled templates: a server renders the same one for every request."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
    )
    environment.filters["counted"] = counted
    return environment
