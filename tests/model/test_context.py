"""The context modules against PyTorch's own."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

from vop_jax.model.prompts.context import encoder_layer
from vop_jax.model.prompts.lstm import BACKWARD, FORWARD, make_lstm

BATCH, FRAMES, WIDTH, HIDDEN = 3, 7, 12, 10


def to_jax(module):
    return {k: jnp.asarray(v.detach().numpy()) for k, v in module.named_parameters()}


@pytest.fixture
def frames():
    rng = np.random.default_rng(0)
    return rng.normal(size=(BATCH, FRAMES, WIDTH)).astype(np.float32)


@pytest.mark.parametrize("both", [True, False])
def test_lstm_is_pytorchs(frames, both):
    torch.manual_seed(0)
    module = torch.nn.LSTM(WIDTH, HIDDEN, batch_first=True, bidirectional=both)
    directions = (FORWARD, BACKWARD) if both else (FORWARD,)
    weights = to_jax(module)
    outside = np.random.default_rng(1).normal(
        size=(BATCH, FRAMES, HIDDEN * len(directions))
    )
    outside = outside.astype(np.float32)

    @jax.jit
    def run(weights, frames):
        outputs, back = jax.vjp(
            lambda weights, frames: make_lstm(weights, directions)(frames),
            weights,
            frames,
        )
        return outputs, *back(outside)

    ours, by_weights, by_frames = run(weights, frames)
    given = torch.from_numpy(frames).requires_grad_()
    theirs = module(given)[0]
    theirs.backward(torch.from_numpy(outside))
    np.testing.assert_allclose(ours, theirs.detach(), atol=1e-6)
    np.testing.assert_allclose(by_frames, given.grad, atol=1e-5)
    for name, parameter in module.named_parameters():
        wanted = parameter.grad.numpy()
        away = np.linalg.norm(by_weights[name] - wanted)
        assert away <= 1e-5 * np.linalg.norm(wanted), name


def test_the_transformer_layer_is_pytorchs(frames):
    torch.manual_seed(0)
    module = torch.nn.TransformerEncoderLayer(
        WIDTH, 3, 4 * WIDTH, 0.0, "gelu", batch_first=True, norm_first=True
    )
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    theirs = module(torch.from_numpy(frames)).detach()
    ours = jax.jit(encoder_layer, static_argnums=2)(to_jax(module), frames, 3)
    np.testing.assert_allclose(ours, theirs, atol=1e-5)
