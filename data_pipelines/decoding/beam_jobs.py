"""Work on many machines, as an Apache Beam pipeline."""

import logging
import queue
import re
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple, TypeVar

from data_pipelines.console.errors import UserError, on_one_line
from data_pipelines.console.names import did_you_mean, shortened

T = TypeVar("T", bound=tuple)

# What Beam is told unless its own flags say otherwise.
_FLAGS = ("--default_sdk_harness_log_level=WARNING",)


class _Runner(NamedTuple):
    """A runner that Beam does not know by its name alone.

    Attributes:
        path: its class.
        flags: what it is told unless it is told otherwise.
        instead: the beginnings of flags of which each does.
    """

    path: str
    flags: Sequence[str]
    instead: tuple[str, ...]


_RUNNERS = {
    # Each item of work is large: by its own rule Dask gives 128 to a process at a time.
    "DaskRunner": _Runner(
        "apache_beam.runners.dask.dask_runner.DaskRunner",
        ("--dask_partition_size=1",),
        ("--dask_partition_size", "--dask_npartitions"),
    )
}
# What Beam says of a worker process that died.
_LOST = "Worker subprocess exited"
# How a `UserError` of another process ends a traceback.
_ERROR = re.compile(
    r"(?:UserError|Denied)[:(] ?['\"]?(.+?)['\"]?\)?(?: \[while run.*)?$", re.M
)


def run_on(
    runner: str, flags: Sequence[str]
) -> Callable[[Callable[[T], None], Sequence[T]], Iterator[None]]:
    """Returns a function that runs another on every item on an Apache Beam runner.

    What is run must be safe to run twice, and at the same time: a runner repeats the
    work of a machine that it has lost.

    Args:
        runner: its name, such as `DirectRunner`, `DaskRunner`, `DataflowRunner`.
        flags: Beam's own flags.

    Raises:
        UserError: Beam is not installed, or has no such runner.
    """
    try:
        import apache_beam as beam  # pyright: ignore
        from apache_beam.options.pipeline_options import (  # pyright: ignore
            PipelineOptions,
        )
    except ImportError:
        raise UserError(
            "--runner needs Apache Beam, which is not installed; run pip install "
            "--no-deps -r requirements-beam.txt, or leave --runner out"
        ) from None
    about = _RUNNERS.get(runner, _Runner(runner, (), ()))
    _check_runner(runner, about.path)

    def run(function: Callable[[T], None], items: Sequence[T]) -> Iterator[None]:
        told = any(x.startswith(about.instead) for x in flags)
        own = () if told else about.flags
        options = PipelineOptions([f"--runner={about.path}", *_FLAGS, *own, *flags])
        logging.getLogger("apache_beam").setLevel(logging.ERROR)

        def work() -> None:
            with beam.Pipeline(options=options) as pipeline:
                _ = (
                    pipeline
                    | "items" >> beam.Create([tuple(x) for x in items])
                    # Without a reshuffle one machine would get all items.
                    | "spread" >> beam.Reshuffle()
                    | "work" >> beam.Map(_Work(function, type(items[0])))
                )

        error = _error_of(work)
        if error is not None:
            raise UserError(_line(runner, error)) from error
        yield from [None] * len(items)

    return run


def _check_runner(runner: str, path: str) -> None:
    """Checks that Beam can set up a runner.

    Args:
        runner: its name.
        path: its class, or its name if Beam knows that.

    Raises:
        UserError: it cannot.
    """
    from apache_beam.options.pipeline_options import (  # pyright: ignore
        StandardOptions,
    )
    from apache_beam.runners.runner import (  # pyright: ignore
        PipelineRunner,
        create_runner,
    )

    known = (*StandardOptions.KNOWN_RUNNER_NAMES, *_RUNNERS)
    names = sorted({x.rpartition(".")[2] for x in known})
    made = None
    try:
        made = create_runner(path)
    # What a name stands for may fail in any way, for example without its own packages.
    except Exception as error:
        if runner in names:
            reason = on_one_line(f"{type(error).__name__}: {error}")[:300]
            raise UserError(f"--runner={runner} cannot be set up ({reason})") from error
    if not isinstance(made, PipelineRunner):
        raise UserError(
            f"--runner={shortened(runner)} is not one of {', '.join(names)}, nor a "
            f"class of a runner{did_you_mean(runner, names)}"
        )


def _error_of(work: Callable[[], None]) -> BaseException | None:
    """Runs a pipeline to its end; returns what ended it early.

    Beam's DirectRunner notices in a thread that a worker process has died, and waits
    for its answer for ever.
    """
    ended: queue.SimpleQueue[BaseException | None] = queue.SimpleQueue()

    def watched() -> None:
        try:
            work()
        # Dask, where its scheduler is gone, raises one that is no `Exception`.
        except BaseException as error:
            ended.put(error)
        else:
            ended.put(None)

    plain = threading.excepthook

    def noticed(about: threading.ExceptHookArgs) -> None:
        if _LOST in str(about.exc_value):
            ended.put(about.exc_value)
        # Beam's other threads fail after it, each with a traceback.
        elif not (about.thread and about.thread.name.startswith("beam_")):
            plain(about)

    threading.excepthook = noticed
    try:
        threading.Thread(target=watched, daemon=True).start()
        return ended.get()
    finally:
        threading.excepthook = plain


class _Work:
    """Calls a function with an item as the type that it was before it was sent."""

    def __init__(self, function: Callable[[Any], None], kind: Any):
        self._function, self._kind = function, kind

    def __call__(self, item: Sequence[Any]) -> int:
        self._function(self._kind(*item))
        return 0


def _line(runner: str, error: BaseException) -> str:
    """What to say of a run that failed: the worker's own line, if there is one."""
    text = str(error)
    found = _ERROR.findall(text)
    if found:
        return found[-1]
    last = next((x for x in reversed(text.splitlines()) if x.strip()), "")
    last = " ".join(f"{type(error).__name__}: {last}".split())[:300]
    return f"{runner} failed ({last}); run the command again, it resumes"
