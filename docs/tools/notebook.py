"""Writes `examples/notebook.ipynb` from `examples/notebook.py`.

    python docs/tools/notebook.py

The text is what is edited. The notebook is kept without outputs, and with cell ids that
do not change from one writing to the next.
"""

from pathlib import Path

import jupytext

EXAMPLES = Path(__file__).parents[2] / "examples"
SCRIPT, NOTEBOOK = EXAMPLES / "notebook.py", EXAMPLES / "notebook.ipynb"


def converted(script: str) -> str:
    """The notebook of a text in the percent format."""
    notebook = jupytext.reads(script, fmt="py:percent")
    notebook.metadata = {
        "kernelspec": notebook.metadata["kernelspec"],
        "language_info": {"name": "python"},
    }
    notebook.nbformat, notebook.nbformat_minor = 4, 5
    for number, cell in enumerate(notebook.cells):
        cell["id"] = f"cell-{number}"
        cell["metadata"] = {}
    return jupytext.writes(notebook, fmt="ipynb").rstrip("\n") + "\n"


if __name__ == "__main__":
    NOTEBOOK.write_text(converted(SCRIPT.read_text()))
