"""bfloat16 features of every family against float32, small towers of random weights."""

import jax
import numpy as np
import pytest
from rounding import cosines
from small_families import FAMILIES

from vop_jax.model.clip.families import SIZES
from vop_jax.model.compute import ComputeConfig
from vop_jax.model.prompts.config import PromptConfig

pytestmark = pytest.mark.slow
CONFIG = PromptConfig(text_length=2, video_length=2, num_frames=2)
SMALL = FAMILIES | {"clip": SIZES["demo"]}
# The least cosine where products result in float32, and where in bfloat16 too. The
# LayerNorms within EVA02's attention and MLP enlarge what is rounded before them.
BARS = {"eva02": (0.999, 0.997)}
USUAL = (0.9999, 0.9997)


@pytest.mark.parametrize("family", SMALL)
def test_features_of_bfloat16_are_those_of_float32(family):
    size, rng = SMALL[family], np.random.default_rng(1)
    side, length = size.image_size, size.context_length
    frames = rng.integers(0, 256, (8, 2, side, side, 3), np.uint8)
    ids = rng.integers(3, 40, (8, length)).astype(np.int32)
    ids[:, length // 2 :] = size.eos_id
    # Products result in float32 on a CPU, and in bfloat16 on TPUs and GPUs.
    half = ComputeConfig("bfloat16")
    computes = ComputeConfig("float32"), half.on(jax.devices()[0], size), half
    wide, narrow = cosines(size, CONFIG, computes, frames, ids, deviation=0.15)
    print(family, *(f"{x:.6f}" for x in (*wide, *narrow)))
    # Not the same numbers, which would mean that nothing was rounded.
    for least, found in zip(BARS.get(family, USUAL), (wide, narrow), strict=True):
        assert all(least <= x < 1 - 1e-6 for x in found)
    assert narrow != wide
