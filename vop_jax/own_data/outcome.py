"""What a run on your own videos came to, in a few lines, and what to do next."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, NotRequired

from annotated_types import Ge, Le, MaxLen, MinLen
from typing_extensions import TypedDict

from data_pipelines.console.errors import UserError
from data_pipelines.console.printable import shell_word, this_python
from data_pipelines.console.terminal import say, table
from data_pipelines.files.json_files import described
from data_pipelines.preparing.provenance import Provenance
from vop_jax.own_data.pairs import Pairs
from vop_jax.runtime.run_folder import RunFolder
from vop_jax.scoring.bootstrap import LEVEL

# What is shown of each direction.
_SHOWN = [(way, name) for way in ("t2v", "v2t") for name in ("R@1", "R@5", "MdR")]
# A difference with a p-value above it may be chance.
_CHANCE = 0.05
# Longest example of a query, characters.
_LONGEST = 80


_MOST = 1e12
_Percent = Annotated[float, Ge(0), Le(100)]
_Rank = Annotated[float, Ge(1), Le(_MOST)]
_Metrics = TypedDict("_Metrics", {"R@1": _Percent, "R@5": _Percent, "MdR": _Rank})
_Ends = Annotated[list[Annotated[float, Ge(0), Le(_MOST)]], MinLen(2), MaxLen(2)]
_Intervals = TypedDict("_Intervals", {"R@1": _Ends, "R@5": _Ends, "MdR": _Ends})


class _BothIntervals(TypedDict):
    t2v: _Intervals
    v2t: _Intervals


class _Scored(TypedDict):
    """A model's metrics of the test split, with their intervals."""

    t2v: _Metrics
    v2t: _Metrics
    intervals: _BothIntervals


class _Compared(TypedDict):
    zero_shot: NotRequired[_Scored]


class _Difference(TypedDict):
    value: Annotated[float, Ge(-_MOST), Le(_MOST)]
    p: Annotated[float, Ge(0), Le(1)]


_Differences = TypedDict(
    "_Differences", {"R@1": _Difference, "R@5": _Difference, "MdR": _Difference}
)


class _Against(TypedDict):
    t2v: _Differences
    v2t: _Differences


class _Results(_Scored):
    """What is told of `results.json`."""

    method: Annotated[str, MaxLen(100)]
    dataset: NotRequired[Annotated[str, MaxLen(100)]]
    queries: Annotated[int, Ge(0)]
    videos: Annotated[int, Ge(0)]
    compared_with: _Compared
    against_untuned: NotRequired[_Against]


def check_results(folder: RunFolder) -> None:
    """Checks that the results of a run, if there are some, are its own and can be told.

    Raises:
        UserError: they are not.
    """
    if not folder.results.exists():
        return
    try:
        results = described(folder.read_results(), _Results, str(folder.results))
        config = folder.read_config()
        for key, what in (("method", "method"), ("dataset", "data set")):
            own = config.get(key)
            if own is not None and results.get(key, own) != own:
                raise UserError(
                    f"{folder.results} is of the {what} {results[key]}, and the run "
                    f"of {own}"
                )
        untuned = results["compared_with"].get("zero_shot")
        for scored in (results, untuned) if untuned else (results,):
            _check_ends(scored, str(folder.results))
    except UserError as error:
        raise _with_advice(error) from None


def _check_ends(scored: _Scored, where: str) -> None:
    """Checks that each interval's lower end is not above its upper one.

    Raises:
        UserError: one is.
    """
    for way, name in _SHOWN:
        low, high = scored["intervals"][way][name]
        if low > high:
            raise UserError(
                f"{where}: the interval of {way} {name} is from {low:g} to {high:g}"
            )


def check_data(folder: RunFolder, made: Mapping[str, Any]) -> None:
    """Checks that the results of a run, which are there, are of the data it reads.

    Args:
        folder: of the run.
        made: the provenance of the data.

    Raises:
        UserError: they are of other films or captions, or of another number of them.
    """
    results, test = folder.read_results(), made["splits"]["test"]
    scored = described(results.get("data", {}), Provenance, f"{folder.results}: data")
    for key in ("annotations", "films", "splits"):
        if scored.get(key) != made.get(key):
            raise _with_advice(f"{folder.results} is of other data ({key} differ)")
    for key, name in (("queries", "captions"), ("videos", "videos")):
        if results[key] != test[name]:
            raise _with_advice(
                f"{folder.results} is of {results[key]:,} {name}, and the test split "
                f"has {test[name]:,}"
            )


def _with_advice(reason: object) -> UserError:
    return UserError(f"{reason}; remove it, and the same command scores the run again")


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
    where, index = shell_word(str(output)), shell_word(f"{output}/videos.index")
    example = shell_word(_example(pairs))
    search = f"{this_python()} -m vop_jax.search"
    if (tuned := output / "tuned.safetensors").exists():
        yield f"tuned parameters: {tuned}"
    yield f"report: {output / 'report' / 'index.html'}"
    yield "next, in the shell:"
    yield (
        f"  {search} index --videos={shell_word(str(videos))} --checkpoint={where} "
        f"--output={index}"
    )
    # A caption may begin like a flag.
    dashes = "-- " if example.lstrip("$'").startswith("-") else ""
    yield f"  {search} query --index={index} {dashes}{example}"
    yield f"  {search} serve --index={index}"
    yield "in Python, to load and to share it (docs/sharing.md):"
    yield f"  model = vop_jax.load({str(output)!r})"
    yield '  model.push_to_hub("your-name/your-model")'


def _example(pairs: Pairs) -> str:
    """A caption to search for, cut at a word where it is long."""
    words = next(iter(pairs.captions.values()))[0].split()
    text = words[0][:_LONGEST]
    for word in words[1:]:
        if len(text) + len(word) >= _LONGEST:
            break
        text += f" {word}"
    return text
