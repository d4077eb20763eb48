"""Merged tokens and joined frames: against the naive reference, and what they are."""

import dataclasses
import math

import jax
import naive_merging
import numpy as np
import pytest
from fusion_problem import assert_close, problem, reference_gradient, step_gradient
from refusals import check_fit
from small_sizes import long, small
from tiers import by_hand

from data_pipelines.console.errors import UserError
from vop_jax.devices.config import MeshConfig
from vop_jax.model.clip.families import SIZES
from vop_jax.model.compute import ComputeConfig
from vop_jax.model.dual_encoder import DualEncoder
from vop_jax.model.methods import METHODS
from vop_jax.model.prompts.config import PromptConfig
from vop_jax.model.prompts.layer_plan import Additions, plan_layers
from vop_jax.model.prompts.merging import (
    Merging,
    destinations,
    merge_tokens,
    schedule,
)
from vop_jax.training.config import check_config, default_values

SMALL = small(5, 2)
# Sixteen patches a frame, and two layers that merge within it.
LONG = dataclasses.replace(long(6, 3), image_size=32)
MERGE = PromptConfig(lora_rank=3, merge_layers=3)
CONFIGS = {
    "tempme": MERGE,
    "with prompts": dataclasses.replace(
        MERGE, text_length=2, video_length=3, adapter="mlp", adapter_width=4
    ),
    "other shares": dataclasses.replace(
        MERGE, merged_per_layer=3, merge_share_before=0.15, merge_share_after=0.3
    ),
    "at once": dataclasses.replace(MERGE, merge_layers=1),
}


ONE, TWO = MeshConfig(data=1), MeshConfig(data=2)
LEAN = ComputeConfig(remat="lean")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("size", "name", "frames", "lengths", "layout", "compute", "options"),
    [
        (SMALL, "tempme", 12, (3, 12), ONE, LEAN, {}),
        (LONG, "tempme", 8, (77, 3, 40, 5), TWO, LEAN, {"micro_batch": 2}),
        (
            *(SMALL, "tempme", 8, (3, 7, 12, 9, 3, 5, 30, 4)),
            *(MeshConfig(data=4, fsdp=2), ComputeConfig(remat="full"), {}),
        ),
        by_hand(SMALL, "with prompts", 8, (3, 7), ONE, ComputeConfig(remat="none"), {}),
        by_hand(LONG, "other shares", 8, (3, 7), ONE, LEAN, {"loss_chunk": 1}),
        by_hand(SMALL, "at once", 7, (3, 7), ONE, LEAN, {}),
    ],
)
def test_features_and_gradients(size, name, frames, lengths, layout, compute, options):
    config, variables, pixels, ids = problem(size, CONFIGS[name], frames, lengths)
    model = DualEncoder(size, config, compute, renormalize_video=True)
    gaps = []

    (want, wanted), right = reference_gradient(
        lambda variables: naive_merging.loss(
            size, config, variables, pixels, ids, gaps
        ),
        variables,
    )
    features = jax.jit(model.apply)(variables, pixels, ids)[:2]
    # Where two choices are almost as good, rounding decides.
    assert min(gaps) > 1e-5
    for ours, theirs in zip(features, wanted, strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-5)
    batch = {"frames": pixels, "text_ids": ids}
    got, gradient = step_gradient(model, variables, batch, layout, **options)
    assert got == pytest.approx(float(want), abs=2e-5)
    assert_close(gradient, right)


@pytest.mark.slow
def test_features_of_a_small_tower():
    """Three frames that are joined at once, behind a layer that merges within them."""
    size = small(3, 2)
    given = dataclasses.replace(MERGE, merge_layers=1)
    config, variables, pixels, _ = problem(size, given, 3, (3, 12))
    model, gaps = DualEncoder(size, config, renormalize_video=True), []
    wanted = jax.jit(
        lambda variables: jax.vmap(
            lambda x: naive_merging.encode_video(size, config, variables, x, gaps)
        )(pixels)
    )(variables)
    found = jax.jit(lambda x: model.apply(x, pixels, method="encode_videos"))(variables)
    np.testing.assert_allclose(found, wanted, atol=1e-5)
    assert min(gaps) > 1e-5


@pytest.mark.parametrize(
    ("length", "classes", "count"), [(10, 1, 2), (11, 2, 4), (7, 3, 2), (6, 1, 0)]
)
def test_tokens_are_merged_as_it_is_written(length, classes, count):
    """Both parities of the class tokens, and of what is behind them."""
    rng = np.random.default_rng(length)
    tokens, pull = rng.normal(size=(2, 2, 3, length, 5)).astype(np.float32)
    metric = rng.normal(size=(2, 3, length, 4)).astype(np.float32)
    sizes = rng.integers(1, 5, (2, 3, length)).astype(np.float32)
    pull = pull[:, :, count:]

    @jax.jit
    def run(tokens, metric):
        def merge(tokens, metric):
            return merge_tokens(tokens, sizes, metric, classes, count)

        merged, back, after = jax.vjp(merge, tokens, metric, has_aux=True)
        return merged, after, *back(pull)

    found, after, gradient, of_choice = run(tokens, metric)
    for video in range(2):
        for group in range(3):
            one = video, group
            mean, left = naive_merging.merged(
                metric[one], sizes[one], classes, count, []
            )
            np.testing.assert_array_equal(after[one], left)
            np.testing.assert_allclose(found[one], mean @ tokens[one], atol=1e-6)
            np.testing.assert_allclose(gradient[one], mean.T @ pull[one], atol=1e-6)
    # None is lost, and what stays alone stays as it is. The choice has no gradient.
    np.testing.assert_array_equal(after.sum(-1), sizes.sum(-1))
    np.testing.assert_array_equal(found[:, :, :classes], tokens[:, :, :classes])
    assert not np.any(of_choice)


def test_equal_tokens_are_merged_in_their_order():
    """Frames of one colour, and of nothing: the first of all choices is taken."""
    metric = np.stack([np.ones((9, 4)), np.zeros((9, 4))])[None]
    one, nothing = jax.jit(lambda x: destinations(x, 1, 2))(metric)[0].tolist()
    # Sources at 2, 4, 6 and 8: the first two join the first target, at 1.
    assert one == nothing == [0, 3, 3, 4, 3, 5, 1, 6, 2]


def test_tokens_of_vit_b32():
    config = METHODS["tempme"].prompt_config(12, 12)
    steps = schedule(config, 12, SIZES["vit_b32"].tokens)
    assert [x.tokens for x in steps] == [
        *((50 - 2 * n, 48 - 2 * n) for n in range(8)),
        *((48, 44), (62, 56), (118, 107), (107, 107)),
    ]
    assert [x.joined for x in steps] == [0] * 8 + [2, 2, 3, 0]
    assert [x.classes for x in steps] == [1] * 8 + [2, 4, 12, 12]
    # All of a few tokens' pairs at most are merged, and one by one is a join as well.
    few = schedule(PromptConfig(merge_layers=1, num_frames=1), 5, 5)
    assert [x.tokens for x in few] == [(5, 3), (3, 2), (2, 2), (2, 2), (2, 2)]


@pytest.mark.parametrize(
    ("layers", "frames", "joins"),
    [
        *((12, 12, (2, 2, 3)), (12, 8, (2, 2, 2)), (24, 16, (2, 2, 4))),
        *((4, 8, (8,)), (2, 3, (3,)), (8, 12, (2, 6)), (12, 10, (2, 5))),
        *((12, 7, (7,)), (12, 4, (2, 2, 1)), (12, 1, (1,))),
    ],
)
def test_which_layers_join_how_many_frames(layers, frames, joins):
    config = METHODS["tempme"].prompt_config(layers, frames)
    config.check()
    assert config.joins() == joins
    assert math.prod(joins) == frames
    assert METHODS["lora"].prompt_config(layers, frames).joins() == ()


def test_what_starts_at_zero():
    """The positions; LoRA's B does as ever. Tokens are merged from the start."""
    module = Merging(METHODS["tempme"].prompt_config(12, 12), 64)
    plan, keys = (
        plan_layers(12, 12, (0, 12), Additions()),
        {"prompts": jax.random.key(0)},
    )

    def made(frames):
        return module.init(keys, plan, frames, 37)["prompts"]

    tables = made(12)
    assert {name: x.shape for name, x in tables.items()} == {
        "positions.0": (12, 64),
        "positions.1": (6, 64),
        "positions.2": (3, 64),
    }
    assert not any(np.any(x) for x in tables.values())
    with pytest.raises(ValueError, match="6 frames; their merging is made for 12"):
        made(6)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"position_length": 2}, "leave config.prompts.position_length, context"),
        ({"split_layer": 2}, "at 0, split_layer at -1 and adapter other than"),
        ({"adapter": "after_mlp"}, "at 0, split_layer at -1 and adapter other than"),
        ({"fusion_layers": 1}, "merge_layers joins frames, so that later layers"),
        ({"num_frames": 10}, "use a multiple of 4, or config.prompts.merge_layers=2"),
        ({"num_frames": 7}, "use a multiple of 4, or config.prompts.merge_layers=1"),
        ({"text_length": 4, "video_length": 4, "num_frames": 4}, None),
    ],
)
def test_what_does_not_go_together(changes, says):
    config = dataclasses.replace(MERGE, **changes)
    if says is None:
        config.check()
        return
    with pytest.raises(UserError, match=says) as error:
        config.check()
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("layers", "size", "says"),
    [
        (3, "vit_b32", None),
        (12, "vit_b32", "has 12 layers, of which the last joins no frames; use anot"),
        (3, "siglip_b16", "does not read the class token alone, and all other tokens"),
        (3, "pe_core_b16", "does not read the class token alone"),
        (3, "eva02_b16", "turns each patch by its place"),
        (3, "laion_h14", None),
    ],
)
def test_a_backbone_that_does_not_fit_is_refused(layers, size, says):
    values = default_values("tempme", "msrvtt_9k") | {"num_frames": 2**layers}
    assert values["renormalize_video"]
    assert values["optimizer"]["learning_rate"] == 6e-4
    assert values["optimizer"]["weight_decay"] == 0.2
    values["prompts"] |= {"merge_layers": layers}
    config = check_config(values)
    check_fit(config, SIZES[size], says)
