"""The work of a ViT-B/32 step against the naive reference's, from lowered code."""

import jax
import jax.numpy as jnp
import naive
import pytest

from vop_jax.dual_encoder import DualEncoder
from vop_jax.losses import contrastive_loss
from vop_jax.methods import METHODS
from vop_jax.sizes import SIZES
from vop_jax.towers import ComputeConfig

SIZE = SIZES["vit_b32"]
CONFIG = METHODS["vop"].prompt_config(SIZE.vision.layers)
BATCH, FRAMES, TOKENS = 4, 12, 32


def abstract(tokens=TOKENS):
    frames = jax.ShapeDtypeStruct((BATCH, FRAMES, 224, 224, 3), jnp.uint8)
    ids = jax.ShapeDtypeStruct((BATCH, tokens), jnp.int32)
    key = jax.random.key(0)
    # Layers one after another: a loop's body would be counted once.
    model = DualEncoder(SIZE, CONFIG, ComputeConfig(scan=False))
    variables = jax.eval_shape(model.init, {"params": key, "prompts": key}, frames, ids)
    return model, variables, frames, ids


def flops(function, *arguments):
    return jax.jit(function).lower(*arguments).cost_analysis()["flops"]


def gradient_of(loss):
    def run(prompts, params, frames, ids):
        return jax.grad(
            lambda prompts: loss({"params": params, "prompts": prompts}, frames, ids)
        )(prompts)

    return run


@pytest.fixture(scope="module")
def counted():
    """FLOPs of (train step, forward) for the fast path and for the reference."""
    model, variables, frames, ids = abstract()
    full = jax.ShapeDtypeStruct((BATCH, SIZE.context_length), jnp.int32)

    def fast(variables, frames, ids):
        return contrastive_loss(*model.apply(variables, frames, ids))

    def reference(variables, frames, ids):
        videos = jax.vmap(
            lambda video: naive.encode_video(SIZE, CONFIG, variables, video)
        )(frames)
        texts = naive.encode_texts(SIZE, CONFIG, variables, ids)
        return contrastive_loss(videos, texts, variables["params"]["logit_scale"])

    def both(loss, ids):
        parts = variables["prompts"], variables["params"], frames, ids
        return flops(gradient_of(loss), *parts), flops(loss, variables, frames, ids)

    return both(fast, ids), both(reference, full)


def test_train_step(counted):
    (ours, _), (theirs, _) = counted
    assert ours / theirs <= 0.78


def test_forward(counted):
    (_, ours), (_, theirs) = counted
    assert ours / theirs <= 0.80
