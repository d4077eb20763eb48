"""Weight decay: of matrices, tables and vectors, never of a bias or a norm."""

import jax
import numpy as np
import pytest

from vop_jax.model.clip.families import SIZES
from vop_jax.model.prompts.config import PromptConfig
from vop_jax.model.shapes import added_shapes
from vop_jax.model.tree_paths import from_paths, paths
from vop_jax.optimization.config import OptimizerConfig
from vop_jax.optimization.optimizer import make_optimizer

SPARED = {
    "many": {
        *(f"adapters/attention.{x}.bias" for x in ("down", "up")),
        *(f"fusion/{x}.bias" for x in ("down", "up")),
        "prompts/context/fc.bias",
        *(
            f"prompts/context/transformer.layers.{i}.{name}"
            for i in range(4)
            for name in (
                *(f"norm{n}.{x}" for n in (1, 2) for x in ("weight", "bias")),
                *("linear1.bias", "linear2.bias", "self_attn.out_proj.bias"),
                "self_attn.in_proj_bias",
            )
        ),
    },
    "lstm": {
        "prompts/context/fc.bias",
        *(
            f"prompts/context/lstm.bias_{x}_l0{way}"
            for x in ("ih", "hh")
            for way in ("", "_reverse")
        ),
    },
    "behind": {
        "adapters/tie.bias",
        *(
            f"adapters/after_mlp.{name}"
            for name in (
                *(f"{x}.bias" for x in ("down", "up")),
                *(f"calibration.{x}.bias" for x in "ag"),
                *(f"ln_pre.{x}" for x in ("weight", "bias")),
                *(
                    f"block.layer_norm{n}.{x}"
                    for n in (1, 2)
                    for x in ("weight", "bias")
                ),
                *(f"block.mlp.fc{n}.bias" for n in (1, 2)),
                *(f"block.self_attn.{x}_proj.bias" for x in ("q", "k", "v", "out")),
            )
        ),
    },
}
CONFIGS = {
    "many": PromptConfig(
        text_length=1,
        context_length=1,
        cmm="transformer",
        adapter="attention",
        lora_rank=1,
        fusion_layers=1,
        fusion_text_layers=1,
        num_frames=2,
    ),
    "lstm": PromptConfig(context_length=1, num_frames=2),
    "behind": PromptConfig(adapter="after_mlp", num_frames=2),
}


# A few of each kind that decay.
DECAYED = (
    *("prompts/vision/prompts/video_prompts", "prompts/vision/lora/A"),
    *("prompts/vision/prompts/context/norms.weight", "prompts/tie/adapters.shared"),
    *("prompts/vision/adapters/after_mlp.token", "prompts/text/fusion/up.weight"),
    *("prompts/text/adapters/mlp.down.weight", "prompts/text/adapters/tie.weight"),
)


def moved(leaves):
    """Path -> what a step without gradient does to ones, at a rate of 1."""
    ones = from_paths({path: np.ones(1, np.float32) for path in leaves})
    settings = OptimizerConfig(learning_rate=1.0, warmup=0, weight_decay=0.5)
    optimizer = make_optimizer(settings, ones, 10)
    nothing = jax.tree.map(np.zeros_like, ones)
    state = optimizer.init(ones)
    updates, _ = jax.jit(optimizer.update)(nothing, state, ones)
    return {path: float(np.asarray(x)[0]) for path, x in paths(updates).items()}


def test_biases_and_norms_are_spared():
    names = {path for spared in SPARED.values() for path in spared}
    found = moved([*(f"prompts/vision/{name}" for name in names), *DECAYED])
    for path, change in found.items():
        assert change == (-0.5 if path in DECAYED else 0), path


@pytest.mark.slow
@pytest.mark.parametrize("name", CONFIGS)
def test_nothing_else_is_spared(name):
    found = moved(added_shapes(SIZES["demo"], CONFIGS[name]))
    spared = {path for path, change in found.items() if change == 0}
    assert {path.split("/", 2)[2] for path in spared} == SPARED[name]
    assert len(found) > len(spared)
