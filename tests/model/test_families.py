"""Towers of every family against the naive reference: features and gradients."""

import jax
import jax.numpy as jnp
import naive
import numpy as np
import pytest
from small_families import FAMILIES

from vop_jax.model.compute import ComputeConfig
from vop_jax.model.dual_encoder import DualEncoder
from vop_jax.model.prompts.config import PromptConfig
from vop_jax.model.shapes import abstract_variables
from vop_jax.optimization.losses import contrastive_loss

FRAMES = 3
CONFIGS = {
    "clip": PromptConfig(),
    "vop": PromptConfig(text_length=2, video_length=3),
    "vop_p": PromptConfig(text_length=2, video_length=2, position_length=3),
    "vop_c": PromptConfig(text_length=2, video_length=2, context_length=3),
    "vop_f": PromptConfig(text_length=2, video_length=2, joint_length=4, split_layer=2),
    "vop_fp": PromptConfig(
        video_length=2, position_length=2, joint_length=4, split_layer=2
    ),
    "vop_fc": PromptConfig(
        text_length=2, video_length=2, context_length=2, joint_length=4, split_layer=2
    ),
    "update_cls": PromptConfig(
        video_length=2, context_length=1, cmm_role="update_cls", cmm="lstm"
    ),
    "all layers joint": PromptConfig(joint_length=2, split_layer=0),
    "adapter_attn": PromptConfig(adapter="attention", adapter_width=5),
    "adapter_ffn": PromptConfig(adapter="mlp", adapter_width=4),
    "lora": PromptConfig(lora_rank=3),
}
# Parts of what the others hold: they are run of the first family alone.
PARTS = (
    *("vop", "vop_p", "vop_c", "vop_f", "vop_fp"),
    *("all layers joint", "adapter_attn", "adapter_ffn"),
)


def tier(family, name):
    again = name in PARTS and family != "siglip"
    return pytest.mark.campaign if again else pytest.mark.slow


CASES = [
    pytest.param(
        family,
        name,
        n % 2 == 0,
        id=f"{family}, {name}",
        marks=tier(family, name),
    )
    for family in FAMILIES
    for n, name in enumerate(CONFIGS)
]


def problem(size, name, seed=0):
    """Random variables, frames and captions."""
    config = PromptConfig(**{**vars(CONFIGS[name]), "num_frames": FRAMES})
    rng = np.random.default_rng(seed)
    side = size.image_size
    frames = rng.integers(0, 256, (2, FRAMES, side, side, 3), np.uint8)
    ids = rng.integers(3, 50, (2, size.context_length)).astype(np.int32)
    ids[0, 5], ids[1, 8] = size.eos_id, size.eos_id
    ids[0, 6:], ids[1, 9:] = 0, 0

    def draw(path, leaf):
        scale = {"scale": 1.0, "logit_scale": 2.0}.get(path[-1].key, 0.0)
        return jnp.asarray(scale + rng.normal(0, 0.15, leaf.shape), jnp.float32)

    shapes = abstract_variables(size, config)
    return config, jax.tree_util.tree_map_with_path(draw, shapes), frames, ids


def value_and_gradient(loss, variables, frames, ids):
    name = "prompts" if "prompts" in variables else "params"
    rest = {key: value for key, value in variables.items() if key != name}

    def of(trained, rest, frames, ids):
        return loss({**rest, name: trained}, frames, ids)

    run = jax.jit(jax.value_and_grad(of, has_aux=True))
    return run(variables[name], rest, frames, ids)


@pytest.mark.parametrize(("family", "name", "scan"), CASES)
def test_features_and_gradients(family, name, scan):
    size = FAMILIES[family]
    config, variables, frames, ids = problem(size, name)
    model = DualEncoder(size, config, ComputeConfig(scan=scan))

    def fast(variables, frames, ids):
        video, text, scale = model.apply(variables, frames, ids)
        return contrastive_loss(video, text, scale), (video, text)

    def reference(variables, frames, ids):
        return naive.loss(size, config, variables, frames, ids)

    (got, features), gradient = value_and_gradient(fast, variables, frames, ids)
    (want, wanted), right = value_and_gradient(reference, variables, frames, ids)
    for ours, theirs in zip(features, wanted, strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-5)
    assert got == pytest.approx(float(want), abs=2e-5)
    whole = jnp.sqrt(sum((x**2).sum() for x in jax.tree.leaves(right)))
    compared = 0
    for (path, ours), theirs in zip(
        jax.tree_util.tree_flatten_with_path(gradient)[0],
        jax.tree.leaves(right),
        strict=True,
    ):
        norm = jnp.linalg.norm(theirs)
        if norm < 1e-5 * whole:
            assert jnp.linalg.norm(ours) < 1e-4 * whole, path
            continue
        compared += 1
        assert jnp.linalg.norm(ours - theirs) <= 1e-4 * norm, path
    assert compared > len(jax.tree.leaves(right)) // 2
