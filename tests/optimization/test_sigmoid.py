"""The sigmoid loss: its value and gradients, on any layout, masked or not."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from refusals import check_fit
from step_problem import (
    ONE,
    SIGLIP,
    SIZE,
    assert_close,
    feature_gradients,
    lower,
    problem,
)
from tiers import slow

from data_pipelines.console.errors import UserError
from vop_jax.devices.config import MeshConfig
from vop_jax.model.clip.families import SIZES
from vop_jax.optimization.config import LOSS_NAMES
from vop_jax.optimization.losses import LOSSES, contrastive_loss, sigmoid_loss
from vop_jax.plan.collectives import count_collectives
from vop_jax.training.config import check_config, default_values

# Rows 0, 2 and 7 are of one video, 3 and 6 of one text.
IDENTITY = np.array(
    [[5, 0], [1, 1], [5, 2], [2, 3], [3, 4], [4, 5], [6, 3], [5, 6]], np.int32
)


def naive(video, text, logit_scale, logit_bias, identity=None):
    """The loss and its gradients by loops over all pairs, float64."""
    video, text = np.float64(video), np.float64(text)
    count, scale = len(video), np.exp(np.float64(logit_scale))
    loss, d_scale, d_bias = 0.0, 0.0, 0.0
    d_video, d_text = np.zeros_like(video), np.zeros_like(text)
    for i in range(count):
        for j in range(count):
            if i != j and identity is not None and (identity[i] == identity[j]).any():
                continue
            sign = 1 if i == j else -1
            similarity = text[i] @ video[j]
            logit = sign * (scale * similarity + np.float64(logit_bias))
            loss += np.log1p(np.exp(-logit)) / count
            pull = -sign / (1 + np.exp(logit)) / count
            d_text[i] += pull * scale * video[j]
            d_video[j] += pull * scale * text[i]
            d_scale += pull * scale * similarity
            d_bias += pull
    return loss, (d_video, d_text, d_scale, d_bias)


def features():
    rng = np.random.default_rng(3)
    video, text = rng.normal(0, 1, (2, 8, 6))
    unit = [x / np.linalg.norm(x, axis=1, keepdims=True) for x in (video, text)]
    return [x.astype(np.float32) for x in unit]


@pytest.mark.parametrize("chunk", [0, 1, 2])
@pytest.mark.parametrize("identity", [None, IDENTITY], ids=["all", "masked"])
def test_the_loss_is_that_of_two_loops(identity, chunk):
    arguments = *features(), jnp.float32(2.0), jnp.float32(-3.0)
    loss, gradient = jax.value_and_grad(
        lambda *x: sigmoid_loss(*x, identity, chunk=chunk), argnums=(0, 1, 2, 3)
    )(*arguments)
    expected, wanted = naive(*arguments, identity)
    assert loss == pytest.approx(expected, abs=2e-6)
    for ours, theirs in zip(gradient, wanted, strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-5)
    if identity is not None:
        assert abs(expected - naive(*arguments)[0]) > 1e-3


@pytest.mark.parametrize("chunk", [0, 2])
def test_a_batch_of_one_video_has_its_own_pairs_alone(chunk):
    video, text = features()
    same = np.zeros((8, 1), np.int32)
    loss, gradient = jax.value_and_grad(
        lambda video: sigmoid_loss(video, text, 2.0, -3.0, same, chunk=chunk)
    )(video)
    right = np.exp(2.0) * (video * text).sum(1) - 3
    assert loss == pytest.approx(np.log1p(np.exp(-right)).mean(), abs=1e-6)
    assert np.isfinite(gradient).all()


@pytest.fixture(scope="module")
def reference():
    """The gradient of the prompts through the loops' gradient of features."""
    variables, batch = problem("vop", size=SIGLIP)
    (video, text), pull = feature_gradients(variables, batch, SIGLIP)
    params = variables["params"]
    scalars = params["logit_scale"], params["logit_bias"]
    found = {}
    for masked in (False, True):
        identity = IDENTITY if masked else None
        loss, by = naive(video, text, *scalars, identity)
        by = tuple(x.astype(np.float32) for x in by[:2])
        found[masked] = loss, jax.device_get(pull(by)[0])
    return found


@pytest.mark.parametrize(
    ("masked", "layout", "options"),
    [
        slow(False, MeshConfig(data=2), {}),
        slow(False, MeshConfig(data=2, fsdp=2), {}),
        slow(False, ONE, {"loss_chunk": 2}),
        slow(True, MeshConfig(data=2, fsdp=2), {"loss_chunk": 2}),
        slow(True, ONE, {"micro_batch": 2}),
    ],
)
def test_any_layout_gives_the_same_gradient(masked, layout, options, reference):
    variables, batch = problem("vop", size=SIGLIP)
    if masked:
        batch["identity"] = IDENTITY
    options = {"size": SIGLIP, "loss": "sigmoid", **options}
    program, arguments = lower(variables, batch, layout, **options)
    compiled = program.compile()
    loss, gradient = jax.device_get(compiled(*arguments))
    expected, wanted = reference[masked]
    assert loss == pytest.approx(expected, abs=5e-6)
    assert_close(gradient, wanted)
    if layout == ONE:
        return
    # The pooling's kernels are sharded as a layer's, and the features gathered once.
    pooling = arguments[1]["params"]["vision"]["pooling"]
    assert "fsdp" in pooling["mlp"]["fc_1"]["kernel"].sharding.spec
    sent = count_collectives(compiled.as_text())
    kinds = {(x.kind, x.type): times for x, times in sent.items()}
    assert kinds["all-gather", f"f32[8,{SIGLIP.embedding}]"] == 1


def test_softmax_is_what_auto_means():
    assert LOSSES["auto"].function is LOSSES["softmax"].function is contrastive_loss
    assert tuple(LOSSES) == LOSS_NAMES
    assert check_config(default_values()).loss == "auto"


@pytest.mark.parametrize(
    ("size", "loss", "says"),
    [
        (SIZE, "sigmoid", "config.loss=sigmoid needs logit_bias, which this backbone"),
        (SIZES["siglip_b16"], "sigmoid", ""),
        (SIZES["siglip_b16"], "softmax", ""),
        (SIZES["pe_core_b16"], "sigmoid", "needs logit_bias"),
    ],
    ids=str,
)
def test_a_loss_needs_what_it_takes(size, loss, says):
    config = check_config(default_values("vop") | {"loss": loss})
    check_fit(config, size, says)


def test_there_are_three_losses():
    with pytest.raises(UserError, match="must be one of auto, softmax, sigmoid"):
        check_config(default_values() | {"loss": "hinge"})
