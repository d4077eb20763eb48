"""Adapters behind the MLP: against the naive reference, their start, what they see."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import naive_mv_adapter
import numpy as np
import pytest
from fusion_problem import problem, random_ids, reference_gradient, step_gradient
from refusals import check_fit
from small_families import FAMILIES
from small_sizes import long, small
from tiers import by_hand, slow

from data_pipelines.console.errors import UserError
from vop_jax.devices.config import MeshConfig
from vop_jax.model.clip.families import SIZES
from vop_jax.model.clip.precision import Precision
from vop_jax.model.compute import ComputeConfig
from vop_jax.model.dual_encoder import DualEncoder
from vop_jax.model.methods import METHODS
from vop_jax.model.prompts.config import PromptConfig
from vop_jax.model.prompts.mv_adapter import (
    CaptionAdapters,
    SharedVectors,
    VideoAdapters,
)
from vop_jax.model.shapes import added_shapes
from vop_jax.model.tree_paths import from_paths, paths
from vop_jax.training.config import check_config, default_values

# The text tower of the second is deeper than its vision tower, and all of that is tied.
SMALL, LONG = small(3, 2), long(2, 3)
MV = PromptConfig(adapter="after_mlp", adapter_width=6, adapter_words=77)
CONFIGS = {
    "mv_adapter": MV,
    "few words": dataclasses.replace(MV, adapter_words=12),
    "with prompts": dataclasses.replace(MV, text_length=2, video_length=3),
    "with lora": dataclasses.replace(MV, lora_rank=3),
}
ONE, TWO = MeshConfig(data=1), MeshConfig(data=2)
LOOPED, UNROLLED = (ComputeConfig(scan=x, remat="lean") for x in (True, False))


def lively(variables):
    """The same, with norms that pass something on and rows that are told apart.

    Otherwise the gradient of the bottlenecks' attention is nothing but rounding.
    """
    added = {}
    for name, value in paths(variables["prompts"]).items():
        if "norm" in name or "ln_pre" in name:
            value = value + name.endswith("weight")
        elif any(x in name for x in ("q_proj.weight", "k_proj.weight", "up.", "tie.")):
            value = 5 * value
        added[name] = value
    return {**variables, "prompts": from_paths(added)}


def padded(size, ids):
    """With padding beyond the table of positions as well."""
    return np.pad(ids, ((0, 0), (0, size.context_length - ids.shape[1])))


@pytest.fixture(scope="module")
def tiny():
    """A model, compiled, and a batch for it."""
    size = small(2, 2)
    config, variables, pixels, ids = problem(size, CONFIGS["few words"], 2, (3, 12))
    model = DualEncoder(size, config, renormalize_video=True)
    run = jax.jit(lambda x: model.apply(x, pixels, padded(size, ids))[:2])
    return size, config, variables, pixels, ids, run


@pytest.mark.slow
def test_features(tiny):
    size, config, variables, pixels, ids, run = tiny
    variables = lively(variables)
    plain = jax.jit(lambda x: naive_mv_adapter.loss(size, config, x, pixels, ids)[1])
    for ours, theirs in zip(run(variables), plain(variables), strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-5)


def test_the_start_is_the_frozen_model(tiny):
    """Exactly, but that the last layer computes more rows, in another order of sums."""
    size, _, variables, pixels, ids, run = tiny
    frozen = DualEncoder(size, PromptConfig(num_frames=2), renormalize_video=True)
    params = {"params": variables["params"]}
    plain = jax.jit(lambda x: frozen.apply(x, pixels, ids)[:2])(params)
    added = paths(variables["prompts"])
    first = {k: np.zeros_like(x) if "up." in k else x for k, x in added.items()}
    found = run(params | {"prompts": from_paths(first)})
    for ours, theirs in zip(found, plain, strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-6)
    # Whatever is in the bottleneck, nothing is added.
    other = {k: x if "up." in k else x + 0.3 for k, x in first.items()}
    again = run(params | {"prompts": from_paths(other)})
    for ours, theirs in zip(found, again, strict=True):
        np.testing.assert_array_equal(ours, theirs)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("size", "name", "frames", "lengths", "layout", "compute", "options"),
    [
        (LONG, "mv_adapter", 2, (3, 77), ONE, LOOPED, {}),
        by_hand(SMALL, "few words", 3, (3, 12), TWO, LOOPED, {}),
        (
            *(SMALL, "mv_adapter", 2, (3, 7), MeshConfig(data=1, fsdp=2)),
            *(ComputeConfig(remat="full"), {"loss_chunk": 1}),
        ),
        by_hand(SMALL, "with prompts", 3, (3, 7), ONE, UNROLLED, {"micro_batch": 1}),
        by_hand(SMALL, "with lora", 1, (3, 30), ONE, ComputeConfig(), {}),
    ],
)
def test_features_and_gradients(size, name, frames, lengths, layout, compute, options):
    config, variables, pixels, ids = problem(size, CONFIGS[name], frames, lengths)
    variables = lively(variables)

    (want, wanted), right = reference_gradient(
        lambda variables: naive_mv_adapter.loss(size, config, variables, pixels, ids),
        variables,
    )
    ids = padded(size, ids)
    model = DualEncoder(size, config, compute, renormalize_video=True)
    features = jax.jit(model.apply)(variables, pixels, ids)[:2]
    for ours, theirs in zip(features, wanted, strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-5)
    batch = {"frames": pixels, "text_ids": ids}
    got, gradient = step_gradient(model, variables, batch, layout, **options)
    assert got == pytest.approx(float(want), abs=2e-5)
    check_gradients(paths(gradient), paths(right))


def check_gradients(gradient, reference):
    """1e-4 of each leaf's norm."""
    assert gradient.keys() == reference.keys()
    whole = max(np.linalg.norm(x) for x in reference.values())
    for path, wanted in reference.items():
        away, norm = np.linalg.norm(gradient[path] - wanted), np.linalg.norm(wanted)
        # The bias of a key shifts all scores of a row alike.
        allowed = 1e-4 * norm if "k_proj.bias" not in path else 1e-6 * whole
        assert away <= allowed, path
        assert norm > 1e-5 * whole or "k_proj.bias" in path, path


def first_values(kind, size):
    """The adapters of one tower and what both share, as they begin."""
    config = METHODS["mv_adapter"].prompt_config(size.vision.layers, 2)
    module = kind(config, size, Precision(), SharedVectors())
    found = jax.jit(lambda key: module.init({"prompts": key}, 0)["prompts"])(
        jax.random.key(3)
    )
    values = {k: np.asarray(x) for k, x in paths(found).items()}
    shared = next(k for k in values if k.endswith("adapters.shared"))
    assert not values.pop(shared).any()
    return {k.removeprefix("after_mlp."): x for k, x in values.items()}


def test_initial_values():
    size = SIZES["demo"]
    vision, text = (first_values(x, size) for x in (VideoAdapters, CaptionAdapters))
    for own, width in ((vision, size.vision.width), (text, size.text.width)):
        for name in ("up.weight", "up.bias", "down.bias"):
            assert not own[name].any()
        assert own["positions"].std() == pytest.approx(0.01, rel=0.1)
        for part in ("q", "k", "v", "out"):
            assert not own[f"block.self_attn.{part}_proj.bias"].any()
        deviations = {
            **{f"self_attn.{x}_proj": width**-0.5 for x in "qkv"},
            **dict.fromkeys(
                ("self_attn.out_proj", "mlp.fc1", "mlp.fc2"), (2 * width) ** -0.5
            ),
        }
        for name, deviation in deviations.items():
            drawn = own[f"block.{name}.weight"]
            assert drawn.std() == pytest.approx(deviation, rel=0.05), name
            # A normal distribution: a uniform one ends at 1.73.
            assert np.abs(drawn).max() > 2.5 * deviation
        for name in ("ln_pre", "block.layer_norm1", "block.layer_norm2"):
            assert np.all(own[f"{name}.weight"] == 1)
            assert not own[f"{name}.bias"].any()
        assert np.abs(own["tie.weight"]).max() <= 32**-0.5
        assert np.abs(own["tie.bias"]).max() == pytest.approx(32**-0.5, rel=0.1)
    down = vision["down.weight"]
    assert np.abs(down).max() == pytest.approx(size.vision.width**-0.5, rel=0.01)
    down = text["down.weight"]
    assert down.std() == pytest.approx((2 * size.text.width) ** -0.5, rel=0.05)
    assert np.abs(down).max() > 2.5 * down.std()
    assert vision["token"].std() == pytest.approx(1 / 8, rel=0.2)
    assert not vision["calibration.b.weight"].any()


BLOCK = {
    **{f"self_attn.{x}_proj.weight": (64, 64) for x in ("q", "k", "v", "out")},
    **{f"self_attn.{x}_proj.bias": (64,) for x in ("q", "k", "v", "out")},
    **{f"layer_norm{i}.{x}": (64,) for i in (1, 2) for x in ("weight", "bias")},
    **{"mlp.fc1.weight": (256, 64), "mlp.fc1.bias": (256,)},
    **{"mlp.fc2.weight": (64, 256), "mlp.fc2.bias": (64,)},
}


@pytest.mark.parametrize(
    ("words", "count"),
    [
        (32, 3_325_696),
        slow(77, 3_360_256),
    ],
)
def test_what_is_trained_on_vit_b32(words, count):
    config = METHODS["mv_adapter"].prompt_config(12)
    config = dataclasses.replace(config, adapter_words=words)
    shapes = added_shapes(SIZES["vit_b32"], config)
    both = {
        tower: {
            **{"down.weight": (64, width), "down.bias": (64,)},
            **{"up.weight": (width, 64), "up.bias": (width,)},
            **{"ln_pre.weight": (64,), "ln_pre.bias": (64,), "positions": (rows, 64)},
            **{f"block.{name}": shape for name, shape in BLOCK.items()},
        }
        for tower, width, rows in (("vision", 768, 25), ("text", 512, words))
    }
    both["vision"] |= {
        "token": (64,),
        **{"calibration.g.weight": (64, 64), "calibration.g.bias": (64,)},
        **{"calibration.a.weight": (16, 128), "calibration.a.bias": (16,)},
        "calibration.b.weight": (64, 16),
    }
    assert shapes == {
        "prompts/tie/adapters.shared": (2, 32),
        **{f"prompts/{x}/adapters/tie.weight": (2, 64, 32) for x in both},
        **{f"prompts/{x}/adapters/tie.bias": (2, 64) for x in both},
        **{
            f"prompts/{tower}/adapters/after_mlp.{name}": (12, *shape)
            for tower, parts in both.items()
            for name, shape in parts.items()
        },
    }
    assert sum(int(np.prod(x)) for x in shapes.values()) == count


@pytest.mark.slow
def test_frames_see_each_other_and_a_word_does_not_see_what_follows():
    config, variables, pixels, ids = problem(SMALL, MV, 3, (9, 9))
    variables = lively(variables)
    model = DualEncoder(SMALL, config)
    # The rows before the mean, and those of all words.
    frames = jax.jit(functools.partial(model.apply, method=lambda m, x: m.vision(x)))
    other = pixels.copy()
    other[:, 2] = pixels[::-1, 2]
    moved = np.abs(frames(variables, pixels) - frames(variables, other))
    assert moved[:, :2].max() > 1e-4
    # Negative control: without its part in time a frame is by itself.
    prompts = jax.tree.map(lambda x: x, variables["prompts"])
    prompts["vision"]["adapters"] = {
        name: jnp.zeros_like(x) if "up" in name else x
        for name, x in prompts["vision"]["adapters"].items()
    }
    alone = {"params": variables["params"], "prompts": prompts}
    moved = np.abs(frames(alone, pixels) - frames(alone, other))
    assert moved[:, :2].max() < 1e-6 < 1e-4 < moved[:, 2].max()
    # What follows EOT changes nothing, within the positions and beyond them.
    texts = jax.jit(functools.partial(model.apply, method="encode_texts"))
    padded = np.pad(ids, ((0, 0), (0, 21)))
    noise = random_ids(SMALL, (30, 30), np.random.default_rng(5))
    noise[:, :9] = ids
    wanted = texts(variables, padded)
    np.testing.assert_allclose(texts(variables, noise), wanted, atol=1e-6)


@pytest.mark.parametrize(
    ("family", "says"),
    [
        ("siglip_b16", "adapter is after_mlp, but .* no class token to look at other"),
        ("pe_core_b16", None),
        ("vit_b32", None),
    ],
)
def test_towers_without_a_class_token_are_refused(family, says):
    config = check_config(default_values("mv_adapter", backbone=family))
    check_fit(config, SIZES[family], says)


def test_text_towers_that_look_behind_the_caption_are_refused():
    for change in ({"causal": False}, {"reads": "last"}):
        text = dataclasses.replace(SMALL.text, **change)
        size = dataclasses.replace(SMALL, text=text)
        assert "text tower does not read the EOT" in MV.unfit(size)[1]
    assert not MV.unfit(SMALL)
    assert MV.unfit(FAMILIES["siglip"])


@pytest.mark.parametrize(
    "changes",
    [
        {"split_layer": 2},
        {"global_length": 4},
        {"first_layer": 2},
        {"last_layer": 3},
        {"text_layout": "modelscope"},
        {"adapter_width": 7},
    ],
)
def test_what_does_not_go_with_it(changes):
    MV.check()
    with pytest.raises(UserError, match="adapter"):
        dataclasses.replace(MV, **changes).check()


def test_a_caption_has_as_many_tokens_as_positions():
    assert MV.caption_length(77) == 77
    words = dataclasses.replace(MV, adapter_words=32)
    assert (words.caption_length(77), words.caption_length(20)) == (32, 20)
    assert words.bound_to_frames(12)
    # Other adapters know no positions.
    other = PromptConfig(adapter="mlp", adapter_words=5)
    assert other.caption_length(77) == 77
    assert not other.bound_to_frames(12)


@pytest.mark.parametrize(
    ("dataset", "words"), [("msrvtt_9k", 32), ("didemo", 64), ("activitynet", 64)]
)
def test_the_released_recipe(dataset, words):
    values = default_values("mv_adapter", dataset)
    assert values["prompts"]["adapter_words"] == words
    assert values["optimizer"]["learning_rate"] == 5e-6
    assert values["optimizer"]["weight_decay"] == 0.2
    assert values["renormalize_video"]
    # Runs of other methods keep their configuration.
    assert default_values("vop", dataset)["prompts"]["adapter_words"] == 32
