"""The fast path against the naive reference: features and prompt gradients."""

import jax
import jax.numpy as jnp
import naive
import numpy as np
import pytest
from small_sizes import long, small

from vop_jax.model.compute import ComputeConfig
from vop_jax.model.dual_encoder import DualEncoder
from vop_jax.model.prompts.config import PromptConfig
from vop_jax.optimization.losses import contrastive_loss

SMALL = small(4, 3)
LONG = long(3, 2)
CONFIGS = {
    "clip": PromptConfig(),
    "vop": PromptConfig(text_length=8, video_length=8),
    "text only": PromptConfig(text_length=3),
    "video only": PromptConfig(video_length=5),
    "middle layers": PromptConfig(
        text_length=2, video_length=3, first_layer=2, last_layer=2
    ),
    "vop_p": PromptConfig(text_length=4, video_length=2, position_length=3),
    "vop_c": PromptConfig(text_length=4, video_length=2, context_length=3),
    "vop_f": PromptConfig(text_length=4, video_length=4, joint_length=4, split_layer=2),
    "vop_fp": PromptConfig(
        text_length=2,
        video_length=2,
        position_length=2,
        joint_length=4,
        split_layer=1,
    ),
    "vop_fc": PromptConfig(
        text_length=2, video_length=2, context_length=2, joint_length=4, split_layer=2
    ),
    "lstm": PromptConfig(video_length=2, context_length=3, cmm="lstm"),
    "transformer": PromptConfig(
        context_length=2, joint_length=1, cmm="transformer", split_layer=3
    ),
    "update_cls": PromptConfig(
        text_length=2, video_length=4, context_length=1, cmm_role="update_cls"
    ),
    "adapter_attn": PromptConfig(adapter="attention", adapter_width=5),
    "adapter_ffn": PromptConfig(
        adapter="mlp", adapter_width=4, joint_length=2, split_layer=2, first_layer=2
    ),
    "lora": PromptConfig(lora_rank=3),
    "vop_lora": PromptConfig(
        text_length=2,
        video_length=3,
        joint_length=2,
        split_layer=2,
        lora_rank=2,
        lora_parts="qv",
        first_layer=2,
    ),
    "all layers joint": PromptConfig(text_length=2, joint_length=3, split_layer=0),
    "everything, middle layers": PromptConfig(
        text_length=2,
        video_length=1,
        position_length=2,
        context_length=3,
        joint_length=2,
        split_layer=2,
        first_layer=2,
        last_layer=3,
    ),
}


def make(size, name, frames, lengths, seed=0):
    """A model with random weights, its variables, frames and captions."""
    config = CONFIGS[name]
    config = PromptConfig(**{**vars(config), "num_frames": frames})
    if config.last_layer > size.text.layers:
        config = PromptConfig(**{**vars(config), "last_layer": size.text.layers})
    rng = np.random.default_rng(seed)
    pixels = rng.integers(
        0, 256, (len(lengths), frames, size.image_size, size.image_size, 3), np.uint8
    )
    ids = np.zeros((len(lengths), max(lengths)), np.int32)
    for row, length in zip(ids, lengths, strict=True):
        words = rng.integers(1, size.eos_id - 1, length - 2)
        row[:length] = [size.eos_id - 1, *words, size.eos_id]
    shapes = jax.eval_shape(
        DualEncoder(size, config).init,
        {"params": jax.random.key(0), "prompts": jax.random.key(0)},
        pixels,
        ids,
    )

    def draw(path, leaf):
        # Fresh biases are 0 and prompts tiny; here every leaf has a say.
        scale = 1.0 if path[-1].key == "scale" else 0.0
        noise = rng.normal(0, 0.15, leaf.shape)
        return jnp.asarray(scale + noise, jnp.float32)

    return config, jax.tree_util.tree_map_with_path(draw, shapes), pixels, ids


# The others are compiled for minutes and made of what this one holds already.
QUICK = ("vop_fc",)
BY_HAND = (
    *("clip", "video only", "text only", "vop_c", "middle layers"),
    *("all layers joint", "lstm", "transformer"),
)


def tier(name):
    if name in QUICK:
        return []
    return pytest.mark.campaign if name in BY_HAND else pytest.mark.slow


CASES = [
    # Both ways of running the layers, in turn.
    *[
        pytest.param(
            SMALL,
            name,
            3,
            (3, 7, 12),
            n % 2 == 0,
            marks=tier(name),
            id=name,
        )
        for n, name in enumerate(CONFIGS)
    ],
    pytest.param(
        *(LONG, "vop", 1, (3, 40, 77, 20), True),
        id="vop, 77 tokens",
        marks=pytest.mark.slow,
    ),
    pytest.param(
        LONG, "vop_fc", 5, (4, 77), False, id="vop_fc, long", marks=pytest.mark.slow
    ),
    pytest.param(
        LONG, "vop_fp", 4, (60, 3, 9), True, id="vop_fp, long", marks=pytest.mark.slow
    ),
]


def trained_part(variables):
    """The prompts; the backbone where there are none."""
    return "prompts" if "prompts" in variables else "params"


def value_and_gradient(loss, variables):
    """The loss with its features, and the gradient of the trained collection."""
    name = trained_part(variables)

    @jax.jit
    def run(trained, rest):
        return jax.value_and_grad(lambda x: loss({**rest, name: x}), has_aux=True)(
            trained
        )

    rest = {key: value for key, value in variables.items() if key != name}
    return run(variables[name], rest)


@pytest.mark.parametrize(("size", "name", "frames", "lengths", "scan"), CASES)
def test_features_and_gradients(size, name, frames, lengths, scan):
    config, variables, pixels, ids = make(size, name, frames, lengths)
    (want, want_features), reference = value_and_gradient(
        lambda variables: naive.loss(size, config, variables, pixels, ids), variables
    )
    model = DualEncoder(size, config, ComputeConfig(scan=scan))

    def fast(variables):
        video, text, scale = model.apply(variables, pixels, ids)
        return contrastive_loss(video, text, scale), (video, text)

    (got, features), gradient = value_and_gradient(fast, variables)
    for ours, theirs in zip(features, want_features, strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-5)
    assert got == pytest.approx(float(want), abs=2e-5)
    assert_close_gradients(gradient, reference)


def assert_close_gradients(gradient, reference):
    """1e-4 of each leaf's norm; leaves whose gradient is rounding are left out."""
    compared = 0
    flat, tree = jax.tree_util.tree_flatten_with_path(gradient)
    whole = jnp.sqrt(sum((x**2).sum() for x in jax.tree.leaves(reference)))
    for (path, got), want in zip(flat, jax.tree.leaves(reference), strict=True):
        norm = jnp.linalg.norm(want)
        if norm < 1e-6 * whole:
            assert jnp.linalg.norm(got) < 1e-5 * whole, path
            continue
        compared += 1
        assert jnp.linalg.norm(got - want) <= 1e-4 * norm, jax.tree_util.keystr(path)
    assert compared > tree.num_leaves // 2


def test_the_reference_tells_a_difference():
    """Negative control: with one number of one prompt changed the features change."""
    config, variables, pixels, _ = make(SMALL, "vop_f", 3, (3, 7, 12))
    encode = jax.jit(
        lambda variables: DualEncoder(SMALL, config).apply(
            variables, pixels, method="encode_videos"
        )
    )
    before = encode(variables)
    prompts = variables["prompts"]["vision"]["prompts"]
    prompts["video_prompts"] = prompts["video_prompts"].at[1, -1, 0].add(3.0)
    assert jnp.abs(encode(variables) - before).max() > 1e-4


def test_trimmed_captions_are_the_same_captions():
    config, variables, _, ids = make(SMALL, "vop", 1, (3, 7, 12))
    model = DualEncoder(SMALL, config)
    full = np.pad(ids, ((0, 0), (0, SMALL.context_length - ids.shape[1])))
    encode = jax.jit(lambda ids: model.apply(variables, ids, method="encode_texts"))
    short, whole = encode(ids), encode(full)
    np.testing.assert_allclose(short, whole, atol=1e-6)
