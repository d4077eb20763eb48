"""The shipped backbones know what is where, and nothing of order."""

import pytest
from tiers import slow

from data_pipelines.console.errors import UserError
from vop_jax.demo import small_clip
from vop_jax.demo.pretrain import BARS
from vop_jax.demo.small_clip import measure
from vop_jax.model.clip.families import SIZES
from vop_jax.weights.locate import EMBEDDED


@pytest.fixture(
    scope="module",
    params=["demo", slow("demo_siglip")],
)
def accuracy(request):
    return measure(EMBEDDED[request.param])


@pytest.mark.slow
@pytest.mark.parametrize("what", BARS)
def test_zero_shot_accuracy_on_new_stills(accuracy, what):
    assert accuracy[what] >= BARS[what]


def test_one_process_writes_a_backbone_and_only_when_it_is_trained(
    tmp_path, monkeypatch
):
    output, seen = tmp_path / "backbone", []

    def train(size, tokenizer, steps, seed):
        seen.extend(x.name for x in output.iterdir())
        with pytest.raises(UserError, match="is in use"):
            small_clip.train_and_save(output, size, steps, seed)
        raise KeyboardInterrupt

    monkeypatch.setattr(small_clip, "train", train)
    with pytest.raises(KeyboardInterrupt):
        small_clip.train_and_save(output, SIZES["demo"], 200, 0)
    assert seen == [".lock"]
    assert not output.exists()
