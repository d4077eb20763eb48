"""What of the tests is run: the helper that marks cases, and the limit of time."""

import subprocess
import sys
from pathlib import Path

import pytest
from tiers import by_hand_except, slow_except

HOUSE = Path(__file__).parent


def names_of(cases):
    return [x if isinstance(x, str) else x.marks[0].name for x in cases]


def test_what_is_not_named_is_marked():
    assert names_of(slow_except("abc", "b")) == ["slow", "b", "slow"]
    assert names_of(by_hand_except("abc", "b")) == ["campaign", "b", "campaign"]
    # A case that was renamed would be left out without a word.
    with pytest.raises(AssertionError):
        slow_except("abc", "d")


@pytest.mark.parametrize(("minutes", "ends"), [("0", "skipped"), ("60", "passed")])
def test_what_starts_too_late_is_left_out_aloud(minutes, ends):
    done = subprocess.run(
        [
            *(sys.executable, "-m", "pytest", "-n0", "-rs", f"--minutes={minutes}"),
            f"{HOUSE / 'test_tiers.py'}::test_what_is_not_named_is_marked",
        ],
        cwd=HOUSE.parents[1],
        capture_output=True,
        text=True,
        check=True,
    )
    assert f"1 {ends}" in done.stdout
    assert ("left out: 0 minutes were over" in done.stdout) == (ends == "skipped")
