"""Every reader of text of unknown origin, given structures changed at random.

Whatever is changed in a valid file, the answer is a checked value or one line, soon and
within bounds of memory.
"""

import json
import resource
import shutil

import hypothesis
import pytest
from changed_json import changed
from own_time import at_most
from text_kinds import KINDS, Tuned
from tiers import by_hand

from data_pipelines.console.errors import UserError

SECONDS, MEGABYTES = 2.0, 500


def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def examine(kind, folder, examples):
    """Reads a kind of file in many forms.

    Returns:
        How many were refused and accepted, and the longest time, seconds.
    """
    told = {"refused": 0, "accepted": 0, "seconds": 0.0}
    case = KINDS[kind](folder)
    case.write(json.dumps(case.valid).encode())
    case.read()

    @hypothesis.settings(
        max_examples=examples,
        deadline=None,
        database=None,
        derandomize=True,
        suppress_health_check=list(hypothesis.HealthCheck),
    )
    @hypothesis.given(changed(case.valid))
    def one(raw):
        case.write(raw)
        before = peak()
        with at_most(SECONDS) as taken:
            try:
                case.read()
                told["accepted"] += 1
                said = ""
            except UserError as error:
                told["refused"] += 1
                said = str(error)
        assert "\n" not in said
        assert len(said) < 1_000
        told["seconds"] = max(told["seconds"], taken.seconds)
        assert peak() - before < MEGABYTES

    one()
    return told


@pytest.mark.parametrize("kind", KINDS)
def test_a_few_changed_files_of_each_kind(kind, tmp_path):
    told = examine(kind, tmp_path, 25)
    assert told["refused"] >= 5


@pytest.mark.slow
@pytest.mark.parametrize("examples", [600, by_hand(2_000)])
@pytest.mark.parametrize("kind", KINDS)
def test_changed_files_of_each_kind(kind, examples, tmp_path, capsys):
    told = examine(kind, tmp_path, examples)
    with capsys.disabled():
        print(f"\n{kind}: {told}, peak {peak():.0f} MiB")
    assert told["refused"] > examples / 10
    assert told["accepted"] > 0
    shutil.rmtree(tmp_path)


def test_what_is_generated_is_mostly_json():
    """Negative control: the changes do not merely break the syntax."""
    parsed = []

    @hypothesis.settings(max_examples=100, deadline=None, derandomize=True)
    @hypothesis.given(changed(Tuned.valid))
    def one(raw):
        try:
            parsed.append(json.loads(raw) != Tuned.valid)
        except (ValueError, RecursionError):
            parsed.append(False)

    one()
    assert sum(parsed) > 40
