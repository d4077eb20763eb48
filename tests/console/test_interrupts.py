"""Ctrl-C and SIGTERM in real processes: one line, 130 or 143, whatever is done."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from data_pipelines.console.errors import UserError, command
from data_pipelines.console.interrupts import (
    ENDINGS,
    INTERRUPTED,
    TERMINATED,
    Interrupts,
    is_interrupted,
)

ROOT = Path(__file__).parents[2]
START = """
import ctypes, signal, sys, time
from data_pipelines.console import interrupts
from data_pipelines.console.errors import UserError, command
mutex = ctypes.create_string_buffer(64)
"""
# A call that no signal ends: Python's own handler has to wait for it.
DEADLOCK = "[ctypes.CDLL(None).pthread_mutex_lock(mutex) for _ in range(2)]"
# What the main thread is in.
BODIES = {
    "python": "while True: time.sleep(0.01)",
    "compiled": DEADLOCK,
    "dropped": """
class Loud:
    def __del__(self):
        time.sleep(0.5)
while True: Loud()
""",
    "import": """
import sys, types
class Finder:
    def find_spec(self, name, path=None, target=None):
        if name == "slow_module":
            import importlib.machinery
            return importlib.machinery.ModuleSpec(name, self)
    def create_module(self, spec):
        return None
    def exec_module(self, module):
        try:
            end = time.monotonic() + 0.7
            while time.monotonic() < end: time.sleep(0.01)
        except KeyboardInterrupt:
            print("a library that is half initialized", file=sys.stderr)
sys.meta_path.insert(0, Finder())
import slow_module
time.sleep(60)
""",
    # As JAX does whose compiler still works.
    "crashes at exit": """
import atexit, os
atexit.register(os.abort)
while True: time.sleep(0.01)
""",
    "turned into another error": """
try:
    while True: time.sleep(0.01)
except KeyboardInterrupt:
    raise RuntimeError("INTERNAL: CpuCallback error")
""",
    "turned into a mistake": """
try:
    while True: time.sleep(0.01)
except KeyboardInterrupt:
    raise UserError("a decoding process ends as soon as it starts")
""",
}


def started(body, grace=10.0, before=""):
    code = START + before
    defaults = "interrupts.Interrupts.__init__.__defaults__"
    code += f"{defaults} = (interrupts._interrupt, {grace}, "
    code += "tuple(interrupts.ENDINGS))\n"
    code += "@command\ndef main():\n    print('in', flush=True)\n"
    code += "".join(f"    {line}\n" for line in body.strip().splitlines())
    process = subprocess.Popen(
        [sys.executable, "-c", code + "main()"],
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout.readline() == "in\n"
    time.sleep(0.2)
    return process


@pytest.mark.parametrize("kind", BODIES)
@pytest.mark.parametrize(
    ("number", "word", "status"),
    [(signal.SIGINT, "interrupted", 130), (signal.SIGTERM, "terminated", 143)],
)
def test_the_first_ends_in_one_line(kind, number, word, status):
    process = started(BODIES[kind], grace=1.0)
    process.send_signal(number)
    _, said = process.communicate(timeout=20)
    assert process.returncode == status
    assert said == f"{word}\n"


@pytest.mark.slow
def test_control_without_the_thread_a_compilation_is_not_left():
    alone = "interrupts.Interrupts._watch = lambda self: None\n"
    process = started(BODIES["compiled"], grace=0.5, before=alone)
    process.send_signal(signal.SIGINT)
    with pytest.raises(subprocess.TimeoutExpired):
        process.wait(3)
    process.kill()
    process.communicate()


NOTED = """
from data_pipelines.console.interrupts import Interrupts
noted = []
with Interrupts(lambda: noted.append(1), grace=None):
    {body}
print("saved", len(noted))
"""


def test_a_block_may_take_its_time_and_the_second_ends_it_at_once():
    process = started(NOTED.format(body="time.sleep(3)"), grace=0.5)
    process.send_signal(signal.SIGINT)
    # To a process and then to its group, as `timeout` does: the same one.
    process.send_signal(signal.SIGINT)
    out, said = process.communicate(timeout=20)
    assert (process.returncode, out, said) == (0, "saved 1\n", "")
    process = started(NOTED.format(body=DEADLOCK))
    process.send_signal(signal.SIGINT)
    time.sleep(0.5)
    process.send_signal(signal.SIGINT)
    sent = time.monotonic()
    out, said = process.communicate(timeout=20)
    assert time.monotonic() - sent < 2
    assert (process.returncode, out) == (INTERRUPTED, "")
    assert said == "interrupted again, ended at once\n"


def test_what_a_destructor_drops_is_raised_again():
    loud = BODIES["dropped"].replace("while True: Loud()", "Loud()\ntime.sleep(60)")
    process = started(loud)
    process.send_signal(signal.SIGTERM)
    sent = time.monotonic()
    _, said = process.communicate(timeout=20)
    # Well before the grace of ten seconds is over.
    assert time.monotonic() - sent < 5
    assert (process.returncode, said) == (TERMINATED, "terminated\n")


def test_a_second_of_another_kind_ends_it_at_once():
    process = started(NOTED.format(body=DEADLOCK))
    process.send_signal(signal.SIGINT)
    time.sleep(0.5)
    process.send_signal(signal.SIGTERM)
    _, said = process.communicate(timeout=10)
    assert process.returncode == TERMINATED
    assert said == "terminated again, ended at once\n"


def test_a_block_leaves_other_signals_to_the_one_around_it():
    body = NOTED.format(body="time.sleep(60)").replace(
        "grace=None", "None, (signal.SIGINT,)"
    )
    process = started(body)
    process.send_signal(signal.SIGTERM)
    out, said = process.communicate(timeout=20)
    assert (process.returncode, out, said) == (TERMINATED, "", "terminated\n")


def test_a_second_one_after_the_block_ends_at_once_too():
    process = started(NOTED.format(body="time.sleep(0.6)") + "time.sleep(60)")
    process.send_signal(signal.SIGINT)
    assert process.stdout.readline() == "saved 1\n"
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=10)
    assert process.returncode == INTERRUPTED


@pytest.mark.parametrize("number", ENDINGS)
def test_what_is_ignored_stays_ignored(number):
    before = signal.signal(number, signal.SIG_IGN)
    try:
        with Interrupts() as interrupts:
            os.kill(os.getpid(), number)
            time.sleep(0.1)
        assert not interrupts.noticed
    finally:
        signal.signal(number, before)


def test_a_block_leaves_everything_as_it_was():
    before = [signal.getsignal(number) for number in ENDINGS]
    with Interrupts(), Interrupts(lambda: None):
        within = [signal.getsignal(number) for number in ENDINGS]
        assert not set(within) & set(before)
    assert [signal.getsignal(number) for number in ENDINGS] == before
    assert signal.set_wakeup_fd(-1) == -1


def test_a_mistake_is_still_one_line_and_2(capsys):
    def wrong():
        raise UserError("no such film")

    with pytest.raises(SystemExit) as ended:
        command(wrong)()
    assert ended.value.code == 2
    assert capsys.readouterr().err == "error: no such film\n"


def test_whoever_continues_after_errors_can_ask():
    # With a grace, the process of the tests would be ended a little later.
    with Interrupts(lambda: None, grace=None):
        assert not is_interrupted()
        os.kill(os.getpid(), signal.SIGINT)
        assert is_interrupted()
        with Interrupts(lambda: None, grace=None):
            assert is_interrupted()
    with Interrupts(lambda: None, grace=None):
        assert not is_interrupted()
