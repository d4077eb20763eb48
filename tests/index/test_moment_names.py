"""`VIDEO@SECONDS` there and back."""

import pytest

from vop_jax.index.moment_names import moment_of, name_of


@pytest.mark.parametrize("seconds", [0.0, 1e-5, 0.125, 12.5, 1e6 + 0.25, 123456789.125])
@pytest.mark.parametrize("video", ["a.mp4", "a@b/c@1.mp4", "@"])
def test_a_name_is_read_back(video, seconds):
    assert moment_of(name_of(video, seconds)) == (video, round(seconds, 3))


@pytest.mark.parametrize(
    "name",
    [
        *("", "a.mp4", "@1", "a.mp4@", "a.mp4@-1", "a.mp4@nan", "a.mp4@inf", "a@1_0"),
        *("a.mp4@1e3", "a.mp4@ 1", "a.mp4@1.", "a.mp4@1\n", "a.mp4@\u0661", "a@0x1"),
    ],
)
def test_what_is_not_one_is_refused(name):
    with pytest.raises(ValueError, match="is not VIDEO@SECONDS"):
        moment_of(name)
