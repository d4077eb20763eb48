"""Numbers with their nouns."""

import pytest

from data_pipelines.console.counted import counted


@pytest.mark.parametrize(
    ("number", "text"), [(0, "0 copies"), (1, "1 copy"), (2345, "2,345 copies")]
)
def test_a_noun_follows_its_number(number, text):
    assert counted(number, "copy", "copies") == text


def test_the_usual_plural_needs_no_second_noun():
    assert [counted(x, "video") for x in (1, 2)] == ["1 video", "2 videos"]
