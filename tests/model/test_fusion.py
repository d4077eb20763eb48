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
from small_families import FAMILIES

from data_pipelines.console.errors import UserError
from vop_jax.devices.config import MeshConfig
from vop_jax.devices.mesh import make_mesh, put_batch, put_tree
from vop_jax.model.clip.families import SIZES
from vop_jax.model.clip.sizes import ClipSize, TextSize, VisionSize
from vop_jax.model.compute import ComputeConfig
from vop_jax.model.dual_encoder import DualEncoder
from vop_jax.model.methods import METHODS, find_method
from vop_jax.model.prompts.config import PromptConfig
from vop_jax.model.prompts.fusion import Fusion
from vop_jax.model.shapes import abstract_variables, added_shapes
from vop_jax.model.trained import select, trained_mask
from vop_jax.optimization.train_step import make_loss_and_gradient
from vop_jax.training.config import check_config, default_values
from vop_jax.training.preflight import check_backbone

SMALL = ClipSize(
    vision=VisionSize(32, 3, 2, 96),
    text=TextSize(24, 2, 3, 48, activation="gelu"),
    image_size=24,
    patch_size=8,
    vocabulary=60,
    context_length=30,
    embedding=20,
    eos_id=59,
)
LONG = ClipSize(
    vision=VisionSize(48, 5, 3, 64),
    text=TextSize(32, 2, 2, 64),
    image_size=16,
    patch_size=8,
    vocabulary=40,
    context_length=77,
    embedding=16,
    eos_id=39,
)
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


def problem(size, config, frames, lengths, seed=0):
    """Random variables, frames and captions."""
    rng = np.random.default_rng(seed)
    side = size.image_size
    pixels = rng.integers(0, 256, (len(lengths), frames, side, side, 3), np.uint8)
    ids = np.zeros((len(lengths), max(lengths)), np.int32)
    for row, length in zip(ids, lengths, strict=True):
        words = rng.integers(1, size.eos_id - 1, length - 2)
        row[:length] = [size.eos_id - 1, *words, size.eos_id]

    def draw(path, leaf):
        middle = {"scale": 1.0, "logit_scale": 2.0}.get(path[-1].key, 0.0)
        return jnp.asarray(middle + rng.normal(0, 0.15, leaf.shape), jnp.float32)

    config = dataclasses.replace(config, num_frames=frames)
    shapes = abstract_variables(size, config)
    variables = jax.tree_util.tree_map_with_path(draw, shapes)
    return config, variables, pixels, ids


def slow(*case):
    return pytest.param(*case, marks=pytest.mark.slow)


ONE, TWO = MeshConfig(data=1), MeshConfig(data=2)
LOOPED, UNROLLED = (ComputeConfig(scan=x, remat="lean") for x in (True, False))


@pytest.mark.parametrize(
    ("size", "name", "frames", "lengths", "layout", "compute", "options"),
    [
        (SMALL, "ivfusion", 3, (3, 7, 12, 9), TWO, LOOPED, {}),
        slow(LONG, "ivfusion", 5, (77, 3, 40, 5), ONE, UNROLLED, {"micro_batch": 2}),
        slow(
            *(SMALL, "ivfusion", 2, (3, 7), MeshConfig(data=1, fsdp=2)),
            *(ComputeConfig(remat="none"), {"loss_chunk": 1}),
        ),
        slow(SMALL, "everywhere", 2, (3, 7), ONE, ComputeConfig(remat="full"), {}),
        slow(SMALL, "with prompts", 3, (3, 7, 12), ONE, UNROLLED, {}),
        slow(SMALL, "prompts in the middle", 3, (3, 7, 12), ONE, LOOPED, {}),
        slow(SMALL, "with adapters", 3, (3, 7, 12), ONE, UNROLLED, {}),
    ],
)
def test_features_and_gradients(size, name, frames, lengths, layout, compute, options):
    config, variables, pixels, ids = problem(size, CONFIGS[name], frames, lengths)
    model = DualEncoder(size, config, compute, renormalize_video=True)

    @jax.jit
    def reference(prompts, params):
        def of(prompts):
            variables = {"params": params, "prompts": prompts}
            return naive_fusion.loss(size, config, variables, pixels, ids)

        return jax.value_and_grad(of, has_aux=True)(prompts)

    (want, wanted), right = reference(variables["prompts"], variables["params"])
    features = jax.jit(model.apply)(variables, pixels, ids)[:2]
    for ours, theirs in zip(features, wanted, strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-5)
    mesh = make_mesh(layout, jax.devices()[: layout.data * layout.fsdp])
    mask = trained_mask(variables, METHODS["ivfusion"].trained)
    trees = [put_tree(mesh, select(variables, mask, trained=x)) for x in (True, False)]
    run = jax.jit(make_loss_and_gradient(model, mesh, **options))
    batch = put_batch(mesh, {"frames": pixels, "text_ids": ids})
    got, gradient = run(*trees, batch)
    assert got == pytest.approx(float(want), abs=2e-5)
    for (path, ours), theirs in zip(
        jax.tree_util.tree_flatten_with_path(gradient["prompts"])[0],
        jax.tree.leaves(right),
        strict=True,
    ):
        norm = np.linalg.norm(theirs)
        assert norm > 1e-6, path
        assert np.linalg.norm(ours - theirs) <= 1e-4 * norm, path


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


@pytest.mark.parametrize(
    "family", ["eva02", pytest.param("clip", marks=pytest.mark.slow)]
)
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
    if says is None:
        check_backbone(config, SIZES[size])
        return
    with pytest.raises(UserError, match=says) as error:
        check_backbone(config, SIZES[size])
    assert "\n" not in str(error.value)


def test_class_rows_and_all_rows_across_frames_exclude_each_other():
    with pytest.raises(UserError, match=r"leave one of them out"):
        PromptConfig(fusion_layers=1, split_layer=2).check()
    find_method("ivfusion").prompt_config(12).check()
