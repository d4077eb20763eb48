"""The shipped backbone knows what is where, and nothing of order."""

import pytest

from data_pipelines.console.errors import UserError
from vop_jax.demo import small_clip
from vop_jax.demo.pretrain import BARS
from vop_jax.demo.small_clip import measure
from vop_jax.weights.locate import BACKBONE


@pytest.fixture(scope="module")
def accuracy():
    return measure(BACKBONE)


@pytest.mark.parametrize("what", BARS)
def test_zero_shot_accuracy_on_new_stills(accuracy, what):
    assert accuracy[what] >= BARS[what]


def test_one_process_writes_a_backbone_and_only_when_it_is_trained(
    tmp_path, monkeypatch
):
    output, seen = tmp_path / "backbone", []

    def train(tokenizer, steps, seed):
        seen.extend(x.name for x in output.iterdir())
        with pytest.raises(UserError, match="is in use"):
            small_clip.train_and_save(output, steps, seed)
        raise KeyboardInterrupt

    monkeypatch.setattr(small_clip, "train", train)
    with pytest.raises(KeyboardInterrupt):
        small_clip.train_and_save(output, 200, 0)
    assert seen == [".lock"]
    assert not output.exists()
