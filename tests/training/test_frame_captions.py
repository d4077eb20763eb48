"""A run's captions of frames, and what a run that shares its data makes of them."""

import dataclasses

import pytest

from data_pipelines.datasets.demo import world
from vop_jax.runtime.run_folder import RunFolder
from vop_jax.training.config import check_config, default_values
from vop_jax.training.run import assemble
from vop_jax.weights.tokenizer import load_tokenizer

pytestmark = pytest.mark.slow


def config(method, data_dir):
    values = default_values(method) | {"batch_size": 16, "data_dir": data_dir}
    return check_config(values)


@pytest.fixture(scope="module")
def described(tmp_path_factory):
    patch = pytest.MonkeyPatch()
    patch.setattr(world, "SPLITS", {"train": 32, "validation": 16, "test": 16})
    folder = tmp_path_factory.mktemp("run")
    yield assemble(config("discovla", str(folder / "data")), RunFolder(folder / "one"))
    patch.undo()


def test_a_batch_has_the_captions_of_its_frames(described):
    train = described.data.splits["train"]
    batch = next(iter(described.feed().batches(0, 1)))
    video = int(batch["video"][0])
    assert batch["frame_ids"].shape[:2] == batch["frames"].shape[:2] == (16, 8)
    assert (batch["frame_ids"][0] == train.frame_ids[video]).all()
    clips = {clip.clip_id: clip for clip in world.sample_clips()["train"]}
    clip = clips[train.video_ids[video]]
    tokenize = load_tokenizer(described.backbone.folder, described.backbone.size, 32)
    ground = tokenize([f"on a {clip.background} background"])[0]
    words = ground[ground != 0][1:-1]
    for ids in batch["frame_ids"][0]:
        said = ids[ids != 0]
        assert list(said[-1 - len(words) : -1]) == list(words)


def test_a_run_that_shares_the_data_has_its_own(described):
    folder = RunFolder(described.folder.path.parent / "two")
    other = config("vop", described.config.data_dir)
    plain = assemble(other, folder, shared=described)
    assert not len(plain.data.splits["train"].frame_ids)
    assert "frame_ids" not in next(iter(plain.feed().batches(0, 1)))
    again = assemble(
        dataclasses.replace(described.config, seed=1), folder, shared=plain
    )
    assert len(again.data.splits["train"].frame_ids) == 32
