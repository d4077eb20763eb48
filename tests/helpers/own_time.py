"""Seconds that code itself takes, for tests that bound them."""

import contextlib
import gc
import time
from collections.abc import Iterator


class Taken:
    """Processor seconds of this process; 0 until the code has ended."""

    seconds = 0.0


@contextlib.contextmanager
def at_most(seconds: float) -> Iterator[Taken]:
    """Fails if what runs inside takes longer.

    What earlier tests have left is millions of objects, and looking for garbage in them
    takes seconds, so the collector sees those alone that are made inside.
    """
    taken = Taken()
    gc.freeze()
    try:
        began = time.process_time()
        yield taken
        taken.seconds = time.process_time() - began
    finally:
        gc.unfreeze()
    assert taken.seconds < seconds
