"""The command that prepares a data set, in processes of its own."""

import pytest
from films import custom_set
from preparations import prepare_command


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (
            ["--dataset=msr-vtt", "--output=x"],
            "'msr-vtt' is not one of demo, msrvtt_9k",
        ),
        (["--dataset=msvd", "--output=x"], "pass --videos and --annotations"),
        (["--dataset=msvd", "--output=x", "--video=y"], "unrecognized arguments"),
        (["--dataset=msvd", "--output=x", "--seconds=0"], "must be above 0"),
        (
            *(["--dataset=msvd", "--output=x", "--runner=DirectRunner"],),
            "pass --videos and --annotations",
        ),
    ],
)
def test_mistakes_are_one_line(arguments, says):
    done = prepare_command(*arguments)
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert says in done.stderr


def test_the_command(tmp_path):
    source = custom_set(tmp_path)
    done = prepare_command(
        "--dataset=custom",
        f"--videos={source / 'videos'}",
        f"--annotations={source / 'rows.csv'}",
        f"--output={source / 'out'}",
        *("--num_frames=2", "--image_size=16", "--workers=2"),
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[0] == "train: 2 videos, 4 captions, 0 left out"
    assert "videos/s" in done.stderr
    assert "left" in done.stderr
