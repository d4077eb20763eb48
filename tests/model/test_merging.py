"""Merged tokens and joined frames: against the naive reference, and what they are."""

import dataclasses

import jax
import naive_merging
import numpy as np
import pytest
from fusion_problem import assert_close, problem, step_gradient
from small_sizes import long, small

from vop_jax.devices.config import MeshConfig
from vop_jax.model.compute import ComputeConfig
from vop_jax.model.dual_encoder import DualEncoder
from vop_jax.model.prompts.config import PromptConfig

SMALL = small(5, 2)
# Sixteen patches a frame, and two layers that merge within it.
LONG = dataclasses.replace(long(6, 3), image_size=32)
MERGE = PromptConfig(lora_rank=3, merge_layers=3)
CONFIGS = {
    "tempme": MERGE,
    "with prompts": dataclasses.replace(
        MERGE, text_length=2, video_length=3, lora_rank=0
    ),
    "with adapters": dataclasses.replace(MERGE, adapter="mlp", adapter_width=4),
    "other shares": dataclasses.replace(
        MERGE, merged_per_layer=3, merge_share_before=0.15, merge_share_after=0.3
    ),
    "at once": dataclasses.replace(MERGE, merge_layers=1),
}


def slow(*case):
    return pytest.param(*case, marks=pytest.mark.slow)


ONE, TWO = MeshConfig(data=1), MeshConfig(data=2)
LEAN = ComputeConfig(remat="lean")


@pytest.mark.parametrize(
    ("size", "name", "frames", "lengths", "layout", "compute", "options"),
    [
        (SMALL, "tempme", 12, (3, 12), ONE, ComputeConfig(), {}),
        slow(LONG, "tempme", 8, (77, 3, 40, 5), TWO, LEAN, {}),
        slow(SMALL, "tempme", 12, (3, 7, 12, 9), ONE, LEAN, {"micro_batch": 2}),
        slow(
            *(LONG, "tempme", 12, (77, 3), MeshConfig(data=1, fsdp=2)),
            *(ComputeConfig(remat="none"), {"loss_chunk": 1}),
        ),
        slow(SMALL, "tempme", 8, (3, 7), ONE, ComputeConfig(remat="full"), {}),
        slow(SMALL, "with prompts", 8, (3, 7, 12), ONE, LEAN, {}),
        slow(SMALL, "with adapters", 8, (3, 7, 12), ONE, LEAN, {}),
        slow(LONG, "other shares", 8, (3, 7), ONE, LEAN, {}),
        slow(SMALL, "at once", 7, (3, 7), ONE, LEAN, {}),
    ],
)
def test_features_and_gradients(size, name, frames, lengths, layout, compute, options):
    config, variables, pixels, ids = problem(size, CONFIGS[name], frames, lengths)
    model = DualEncoder(size, config, compute, renormalize_video=True)
    gaps = []

    @jax.jit
    def reference(prompts, params):
        def of(prompts):
            variables = {"params": params, "prompts": prompts}
            return naive_merging.loss(size, config, variables, pixels, ids, gaps)

        return jax.value_and_grad(of, has_aux=True)(prompts)

    (want, wanted), right = reference(variables["prompts"], variables["params"])
    features = jax.jit(model.apply)(variables, pixels, ids)[:2]
    # Where two choices are almost as good, rounding decides.
    assert min(gaps) > 1e-5
    for ours, theirs in zip(features, wanted, strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-5)
    batch = {"frames": pixels, "text_ids": ids}
    got, gradient = step_gradient(model, variables, batch, layout, **options)
    assert got == pytest.approx(float(want), abs=2e-5)
    assert_close(gradient, right)
