"""What the methods must have in common, and what must tell them apart."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tiers import slow_except

from vop_jax.model.clip.families import SIZES
from vop_jax.model.compute import ComputeConfig
from vop_jax.model.dual_encoder import DualEncoder
from vop_jax.model.methods import METHODS
from vop_jax.model.prompts.config import PromptConfig

SIZE = SIZES["demo"]
FRAMES = 4


def config_of(method, **changes):
    whole = METHODS[method].prompt_config(SIZE.vision.layers, FRAMES)
    return PromptConfig(**{**vars(whole), **changes})


def model_of(config):
    return DualEncoder(SIZE, config, ComputeConfig(scan=False))


@pytest.fixture(scope="module")
def frames():
    rng = np.random.default_rng(0)
    return rng.integers(0, 256, (2, FRAMES, 48, 48, 3), np.uint8)


def variables_of(config, seed=0):
    """Random weights, the same for a leaf of the same name and shape."""
    model = model_of(config)
    image = jax.ShapeDtypeStruct((1, config.num_frames, 48, 48, 3), jnp.uint8)
    ids = jax.ShapeDtypeStruct((1, 2), jnp.int32)
    key = jax.random.key(0)
    shapes = jax.eval_shape(model.init, {"params": key, "prompts": key}, image, ids)

    def draw(path, leaf):
        name = jax.tree_util.keystr(path)
        rng = np.random.default_rng([seed, *name.encode()])
        scale = 1.0 if path[-1].key == "scale" else 0.0
        return (scale + rng.normal(0, 0.2, leaf.shape)).astype(np.float32)

    return jax.tree_util.tree_map_with_path(draw, shapes)


def encode(config, variables, frames):
    model = model_of(config)
    run = jax.jit(lambda *x: model.apply(*x, method="encode_videos"))
    return np.asarray(run(variables, frames))


@pytest.mark.slow
def test_joint_layers_that_begin_after_the_last_are_none(frames):
    layers = SIZE.vision.layers
    base, split = config_of("vop"), config_of("vop_f", split_layer=layers)
    ours = encode(split, variables_of(split), frames)
    assert np.array_equal(ours, encode(base, variables_of(base), frames))
    joint = config_of("vop_f")
    away = encode(joint, variables_of(joint), frames)
    assert np.abs(away - ours).max() > 1e-3


def test_with_one_frame_joint_is_per_frame(frames):
    one = frames[:, :1]
    base = config_of("vop", num_frames=1)
    joint = config_of("vop_f", num_frames=1)
    variables = variables_of(base)
    added = dict(variables["prompts"]["vision"]["prompts"])
    prompts = added.pop("video_prompts")
    split = joint.split_layer
    positions = np.zeros((1, SIZE.vision.width), np.float32)
    added |= {
        "video_prompts": prompts[:split],
        "joint_prompts": prompts[split:],
        "frame_positions": positions,
    }
    moved = {
        "params": variables["params"],
        "prompts": {**variables["prompts"], "vision": {"prompts": added}},
    }
    wanted = encode(base, variables, one)
    np.testing.assert_allclose(encode(joint, moved, one), wanted, atol=1e-5)
    rng = np.random.default_rng(1)
    added["frame_positions"] = rng.normal(0, 0.5, positions.shape).astype(np.float32)
    assert np.abs(encode(joint, moved, one) - wanted).max() > 1e-3


@pytest.mark.parametrize("method", slow_except(METHODS, "vop", "vop_f", "tempme"))
def test_who_sees_that_a_film_runs_backwards(method, frames):
    config = config_of(method)
    variables = variables_of(config)
    forwards = encode(config, variables, frames)
    backwards = encode(config, variables, frames[:, ::-1])
    away = np.abs(forwards - backwards).max()
    sees = config.position_length or config.context_length or config.joint_length
    sees = sees or config.bound_to_frames(SIZE.vision.layers)
    # MV-Adapter multiplies what it adds by 0.1.
    assert away > 1e-4 if sees else away < 1e-6


@pytest.mark.parametrize(
    "length", slow_except(["position_length", "context_length"], "context_length")
)
def test_no_specific_prompts_is_base_vop(length, frames):
    method = {"position_length": "vop_p", "context_length": "vop_c"}[length]
    base = config_of("vop", video_length=4)
    empty = config_of(method, **{length: 0})
    shared = variables_of(empty)
    assert np.array_equal(
        encode(empty, shared, frames), encode(base, variables_of(base), frames)
    )
    full = config_of(method)
    away = encode(full, variables_of(full), frames) - encode(empty, shared, frames)
    assert np.abs(away).max() > 1e-3
