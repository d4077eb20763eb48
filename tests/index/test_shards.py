"""Many processes, each with its part of the videos."""

import pytest
from colour_model import ColourModel

from data_pipelines.console.errors import UserError
from vop_jax.index.shards import Shard, parse_shard


def test_every_video_belongs_to_one_shard():
    paths = [f"a/{i:03}.mp4" for i in range(1000)] + ["\udcff.mp4"]
    for count in (1, 3, 16):
        shards = [Shard(i, count) for i in range(1, count + 1)]
        owned = [sum(shard.owns(path) for path in paths) for shard in shards]
        assert sum(owned) == len(paths)
        assert max(owned) < 2 * len(paths) / count
        assert min(sum(shard.owns(path) for path in paths[:100]) for shard in shards)


@pytest.mark.parametrize(
    ("text", "environment", "expected"),
    [
        ("1/16", {}, (1, 16)),
        ("16/16", {}, (16, 16)),
        ("auto", {"SLURM_PROCID": "0", "SLURM_NTASKS": "4"}, (1, 4)),
        ("auto", {"JOB_COMPLETION_INDEX": "3", "JOB_COMPLETIONS": "4"}, (4, 4)),
        (
            "auto",
            {
                "SLURM_ARRAY_TASK_ID": "12",
                "SLURM_ARRAY_TASK_COUNT": "3",
                "SLURM_ARRAY_TASK_MIN": "10",
                "SLURM_PROCID": "1",
                "SLURM_NTASKS": "4",
            },
            (10, 12),
        ),
        (
            "auto",
            {
                "SLURM_ARRAY_TASK_ID": "6",
                "SLURM_ARRAY_TASK_COUNT": "4",
                "SLURM_ARRAY_TASK_MIN": "0",
                "SLURM_ARRAY_TASK_STEP": "2",
            },
            (4, 4),
        ),
    ],
)
def test_a_shard_is_given_or_found(text, environment, expected):
    assert parse_shard(text, environment) == expected


@pytest.mark.parametrize(
    ("text", "environment", "says"),
    [
        (
            "0/16",
            {},
            "--shard is 0/16; pass NUMBER/COUNT, such as 3/16 for",
        ),
        ("17/16", {}, "--shard is 17/16"),
        ("x", {}, "--shard is x"),
        ("\uff13/16", {}, "--shard is \uff13/16"),
        ("3/1_6", {}, "--shard is 3/1_6"),
        (
            "auto",
            {"SLURM_PROCID": "\uff11", "SLURM_NTASKS": "4"},
            "SLURM_PROCID=\uff11; set",
        ),
        ("auto", {}, "finds none of SLURM_ARRAY_TASK_ID, SLURM_PROCID, JOB_COMPL"),
        ("auto", {"SLURM_PROCID": "1"}, r"SLURM_NTASKS=\(not set\); set it to a whole"),
        ("auto", {"SLURM_PROCID": "-1", "SLURM_NTASKS": "4"}, "SLURM_PROCID=-1; set"),
        (
            "auto",
            {"JOB_COMPLETION_INDEX": "4", "JOB_COMPLETIONS": "4"},
            "JOB_COMPLETION_INDEX=4 of JOB_COMPLETIONS=4; it counts from 0",
        ),
    ],
)
def test_a_wrong_shard_is_one_line(text, environment, says):
    with pytest.raises(UserError, match=says):
        parse_shard(text, environment)


def test_shards_fill_one_index(folder, videos):
    read = []
    for number in (1, 2, 3):
        model = ColourModel()
        summary = folder.update(model, shard=Shard(number, 3))
        assert summary.indexed == len(model.read)
        assert 0 < len(model.read) < 9
        read += model.read
    assert len(read) == len(set(read)) == 9
    assert len(folder.found()) == 9
    # Each notices what is gone of its own alone.
    (videos / "red0.mp4").unlink()
    owner = next(i for i in (1, 2, 3) if Shard(i, 3).owns("red0.mp4"))
    for number in (1, 2, 3):
        summary = folder.update(shard=Shard(number, 3))
        assert summary.removed == (number == owner)
    assert len(folder.found()) == 8
    assert folder.update().unchanged == 8
