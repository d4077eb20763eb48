"""Class rows that attend across frames: against the naive reference, and what they are.

The reference holds the mechanism, the rest how it runs: in a loop or unrolled, with
recomputation, on a mesh.
"""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import naive_fusion
import numpy as np
import pytest
from fusion_problem import (
    LONG,
    SMALL,
    assert_close,
    problem,
    reference_gradient,
    step_gradient,
)
from refusals import check_fit
from small_families import FAMILIES
from tiers import by_hand, slow

from data_pipelines.console.errors import UserError
from vop_jax.devices.config import MeshConfig
from vop_jax.model.clip.families import SIZES
from vop_jax.model.compute import ComputeConfig
from vop_jax.model.dual_encoder import DualEncoder
from vop_jax.model.methods import METHODS, find_method
from vop_jax.model.prompts.config import PromptConfig
from vop_jax.model.prompts.fusion import Fusion
from vop_jax.model.shapes import added_shapes
from vop_jax.training.config import check_config, default_values

FUSION = PromptConfig(lora_rank=3, fusion_layers=2, fusion_width=3)
CONFIGS = {
    "ivfusion": FUSION,
    # No layer without it, and no LoRA.
    "everywhere": PromptConfig(fusion_layers=3, fusion_width=5),
    "with prompts": dataclasses.replace(
        FUSION, text_length=2, video_length=3, position_length=2
    ),
    # The prompts end before the layers of fusion do, and begin after them.
    "prompts in the middle": dataclasses.replace(
        FUSION, video_length=2, first_layer=2, last_layer=2
    ),
    "with adapters": dataclasses.replace(FUSION, adapter="attention", adapter_width=4),
}


ONE, TWO = MeshConfig(data=1), MeshConfig(data=2)
LOOPED, UNROLLED = (ComputeConfig(scan=x, remat="lean") for x in (True, False))


@pytest.mark.parametrize(
    ("size", "name", "frames", "lengths", "layout", "compute", "options"),
    [
        slow(SMALL, "ivfusion", 2, (3, 12), ONE, LOOPED, {}),
        slow(SMALL, "ivfusion", 3, (3, 7, 12, 9), TWO, LOOPED, {}),
        by_hand(LONG, "ivfusion", 5, (77, 3, 40, 5), ONE, UNROLLED, {"micro_batch": 2}),
        slow(
            *(SMALL, "ivfusion", 2, (3, 7), MeshConfig(data=1, fsdp=2)),
            *(ComputeConfig(remat="none"), {"loss_chunk": 1}),
        ),
        slow(SMALL, "everywhere", 2, (3, 7), ONE, ComputeConfig(remat="full"), {}),
        by_hand(SMALL, "with prompts", 3, (3, 7, 12), ONE, UNROLLED, {}),
        by_hand(SMALL, "prompts in the middle", 3, (3, 7, 12), ONE, LOOPED, {}),
        by_hand(SMALL, "with adapters", 3, (3, 7, 12), ONE, UNROLLED, {}),
    ],
)
def test_features_and_gradients(size, name, frames, lengths, layout, compute, options):
    config, variables, pixels, ids = problem(size, CONFIGS[name], frames, lengths)
    model = DualEncoder(size, config, compute, renormalize_video=True)

    (want, wanted), right = reference_gradient(
        lambda variables: naive_fusion.loss(size, config, variables, pixels, ids),
        variables,
    )
    features = jax.jit(model.apply)(variables, pixels, ids)[:2]
    for ours, theirs in zip(features, wanted, strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-5)
    batch = {"frames": pixels, "text_ids": ids}
    got, gradient = step_gradient(model, variables, batch, layout, **options)
    assert got == pytest.approx(float(want), abs=2e-5)
    assert_close(gradient, right)


@functools.cache
def encoder(size, config):
    model = DualEncoder(size, config)
    return jax.jit(lambda *x: model.apply(*x, method="encode_videos"))


def encoded(size, config, variables, frames):
    return encoder(size, config)(variables, frames)


def bare(variables):
    """The same, with bottlenecks that add nothing."""
    fusion = jax.tree.map(jnp.zeros_like, variables["prompts"]["vision"]["fusion"])
    vision = {**variables["prompts"]["vision"], "fusion": fusion}
    prompts = {**variables["prompts"], "vision": vision}
    return {"params": variables["params"], "prompts": prompts}


def without(variables):
    """The same, without the bottlenecks."""
    vision = dict(variables["prompts"]["vision"])
    vision.pop("fusion")
    prompts = {**variables["prompts"], "vision": vision}
    return {"params": variables["params"], "prompts": prompts}


@pytest.mark.slow
@pytest.mark.parametrize("family", ["eva02", "clip"])
def test_frames_that_are_all_alike_are_one_frame(family):
    """With the rotations and the attention's LayerNorm of EVA02 as well.

    Keys that appear twice weigh as much as keys that appear once.
    """
    size = SMALL if family == "clip" else FAMILIES[family]
    config, variables, frames, _ = problem(size, FUSION, 2, (3, 7))
    plain = dataclasses.replace(config, fusion_layers=0)
    wanted = encoded(size, plain, without(variables), frames)
    same = jnp.broadcast_to(frames[:, :1], frames.shape)
    alike = encoded(size, config, bare(variables), same)
    one = encoded(size, plain, without(variables), same)
    np.testing.assert_allclose(alike, one, atol=1e-5)
    # Frames that differ do see each other, and the bottleneck has a say.
    joint = encoded(size, config, bare(variables), frames)
    assert np.abs(joint - wanted).max() > 1e-3
    assert np.abs(encoded(size, config, variables, frames) - joint).max() > 1e-3


def test_trained_parameters_by_leaf():
    shapes = added_shapes(SIZES["vit_b32"], METHODS["ivfusion"].prompt_config(12))
    fusion = {k: v for k, v in shapes.items() if "/lora/" not in k}
    assert fusion == {
        "prompts/vision/fusion/down.weight": (4, 8, 768),
        "prompts/vision/fusion/down.bias": (4, 8),
        "prompts/vision/fusion/up.weight": (4, 768, 8),
        "prompts/vision/fusion/up.bias": (4, 768),
    }
    assert sum(int(np.prod(x)) for x in shapes.values()) == 543_776


def test_the_last_third_of_the_layers():
    row = METHODS["ivfusion"]
    assert [row.prompt_config(x).fusion_layers for x in (12, 4, 24, 2)] == [4, 1, 8, 1]
    values = default_values("ivfusion")
    assert values["renormalize_video"]
    assert not default_values("lora")["renormalize_video"]


def test_what_starts_at_zero():
    module = Fusion(2, 32, 3)
    fusion = module.init({"prompts": jax.random.key(1)}, 0)["prompts"]
    assert not np.any(fusion["up.weight"])
    assert not np.any(fusion["up.bias"])
    bound = np.sqrt(6 / (3 + 32))
    largest = np.abs(fusion["down.weight"]).max()
    assert 0.9 * bound < largest <= bound
    assert 0 < np.abs(fusion["down.bias"]).max() < 1e-5


@pytest.mark.parametrize(
    ("changes", "size", "says"),
    [
        ({}, "siglip_b16", "fusion_layers is 1, but this backbone's frames have no"),
        ({}, "pe_core_b16", None),
        ({"fusion_layers": 13}, "vit_b32", "fusion_layers is 13, but the vision tower"),
    ],
)
def test_a_backbone_that_does_not_fit_is_refused(changes, size, says):
    values = default_values("ivfusion")
    values["prompts"] |= changes
    config = check_config(values)
    check_fit(config, SIZES[size], says)


def test_class_rows_and_all_rows_across_frames_exclude_each_other():
    with pytest.raises(UserError, match=r"leave one of them out"):
        PromptConfig(fusion_layers=1, split_layer=2).check()
    find_method("ivfusion").prompt_config(12).check()
