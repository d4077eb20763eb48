"""What a run on your own videos came to, in a few lines, and what to do next."""

import shlex
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from data_pipelines.console.terminal import say, table
from vop_jax.own_data.pairs import Pairs
from vop_jax.scoring.bootstrap import LEVEL

# What is shown of each direction.
_SHOWN = [(way, name) for way in ("t2v", "v2t") for name in ("R@1", "R@5", "MdR")]
# A difference with a p-value above it may be chance.
_CHANCE = 0.05


def show_results(results: Mapping[str, Any]) -> None:
    """Prints the metrics of the test split beside those of the untuned backbone.

    Args:
        results: the content of `results.json`.
    """
    untuned = results["compared_with"].get("zero_shot")
    against = results.get("against_untuned")
    rows = []
    for way, name in _SHOWN:
        row = [f"{way} {name}", _cell(results, way, name)]
        if untuned and against:
            found = against[way][name]
            row.append(_cell(untuned, way, name))
            row.append(f"{found['value']:+.1f} (p {found['p']:.3f})")
        rows.append(row)
    size = f"{results['queries']:,} captions of {results['videos']:,} test videos"
    columns = ["", results["method"], "untuned", "difference"][: len(rows[0])]
    table(f"{size}, {LEVEL}% intervals", columns, rows)
    if against:
        recalls = {way: against[way]["R@1"]["p"] for way in ("t2v", "v2t")}
        chance = [way for way, p in recalls.items() if p > _CHANCE]
        if chance:
            say(
                f"the difference of R@1 may be chance ({' and '.join(chance)}: p above "
                f"{_CHANCE}); more test videos would tell"
            )


def _cell(results: Mapping[str, Any], way: str, name: str) -> str:
    low, high = results["intervals"][way][name]
    return f"{results[way][name]:.1f} [{low:.1f}, {high:.1f}]"


def next_steps(output: Path, videos: Path, pairs: Pairs) -> Iterator[str]:
    """Where the files are, and the commands that use them.

    Args:
        output: the run's folder.
        videos: the folder of the videos.
        pairs: what was trained on, of which a caption is an example.
    """
    where, index = shlex.quote(str(output)), shlex.quote(f"{output}/videos.index")
    example = shlex.quote(next(iter(pairs.captions.values()))[0])
    search = "python -m vop_jax.search"
    if (tuned := output / "tuned.safetensors").exists():
        yield f"tuned parameters: {tuned}"
    yield f"report: {output / 'report' / 'index.html'}"
    yield "next, in the shell:"
    yield (
        f"  {search} index --videos={shlex.quote(str(videos))} --checkpoint={where} "
        f"--output={index}"
    )
    yield f"  {search} query --index={index} {example}"
    yield f"  {search} serve --index={index}"
    yield "in Python, to load and to share it (docs/sharing.md):"
    yield f"  model = vop_jax.load({str(output)!r})"
    yield '  model.push_to_hub("your-name/your-model")'
