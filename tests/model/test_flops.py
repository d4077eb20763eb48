"""The work of a ViT-B/32 step against the naive reference's, from lowered code."""

import jax
import jax.numpy as jnp
import naive
import pytest

from vop_jax.devices.flops import count_flops
from vop_jax.model.clip.families import SIZES
from vop_jax.model.compute import ComputeConfig
from vop_jax.model.dual_encoder import DualEncoder
from vop_jax.model.methods import METHODS
from vop_jax.model.prompts import lstm
from vop_jax.optimization.losses import contrastive_loss

SIZE = SIZES["vit_b32"]
CONFIG = METHODS["vop"].prompt_config(SIZE.vision.layers)
BATCH, FRAMES, TOKENS = 4, 12, 32


def abstract(config=CONFIG):
    frames = jax.ShapeDtypeStruct((BATCH, FRAMES, 224, 224, 3), jnp.uint8)
    ids = jax.ShapeDtypeStruct((BATCH, TOKENS), jnp.int32)
    key = jax.random.key(0)
    # Layers one after another: a loop's body would be counted once.
    model = DualEncoder(SIZE, config, ComputeConfig(scan=False))
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


def fast_loss(model):
    def loss(variables, frames, ids):
        return contrastive_loss(*model.apply(variables, frames, ids))

    return loss


def train_and_forward(loss, variables, frames, ids):
    """FLOPs of the gradient of what is added, and of the loss alone."""
    parts = variables["prompts"], variables["params"], frames, ids
    return flops(gradient_of(loss), *parts), flops(loss, variables, frames, ids)


@pytest.fixture(scope="module")
def base():
    model, variables, frames, ids = abstract()
    return train_and_forward(fast_loss(model), variables, frames, ids)


@pytest.fixture(scope="module")
def reference():
    _, variables, frames, _ = abstract()
    full = jax.ShapeDtypeStruct((BATCH, SIZE.context_length), jnp.int32)

    def loss(variables, frames, ids):
        videos = jax.vmap(
            lambda video: naive.encode_video(SIZE, CONFIG, variables, video)
        )(frames)
        texts = naive.encode_texts(SIZE, CONFIG, variables, ids)
        return contrastive_loss(videos, texts, variables["params"]["logit_scale"])

    return train_and_forward(loss, variables, frames, full)


@pytest.mark.slow
def test_train_step(base, reference):
    assert base[0] / reference[0] <= 0.78


@pytest.mark.slow
def test_forward(base, reference):
    assert base[1] / reference[1] <= 0.80


@pytest.mark.slow
@pytest.mark.parametrize(
    # The way back scores anew, which among all frames of a video is half a hundredth.
    ("method", "bar"),
    [("vop_p", 1.01), ("vop_f", 1.055), ("vop_c", 1.08)],
)
def test_what_the_other_prompts_cost(base, method, bar, monkeypatch):
    # The recurrence is a loop as well; written out, every frame of it is counted.
    scan = jax.lax.scan
    monkeypatch.setattr(
        lstm.jax.lax, "scan", lambda *args, **kwargs: scan(*args, **kwargs, unroll=True)
    )
    config = METHODS[method].prompt_config(SIZE.vision.layers)
    model, variables, frames, ids = abstract(config)
    cost = train_and_forward(fast_loss(model), variables, frames, ids)
    print(f"{method}: {cost[0] / base[0]:.4f} of base, forward {cost[1] / base[1]:.4f}")
    assert 1 < cost[0] / base[0] <= bar


@pytest.mark.slow
def test_the_count_for_utilisation_is_that_of_the_lowered_step(base):
    """Matrix products alone, over loops: within 2% of all that is lowered."""
    model, variables, frames, ids = abstract()
    looped = fast_loss(model.clone(compute=ComputeConfig(scan=True)))
    counted = count_flops(
        gradient_of(looped), variables["prompts"], variables["params"], frames, ids
    )
    assert counted == pytest.approx(base[0], rel=0.02)
