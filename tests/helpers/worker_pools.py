"""The processes of a pool of workers, seen from outside."""

import time
from pathlib import Path


def processes(workers):
    return [x._process.pid for x in workers._workers if x._process is not None]


def wait_until(holds, seconds=30):
    end = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < end
        time.sleep(0.02)


def gone(pid):
    try:
        return "(zombie)" in Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return True
