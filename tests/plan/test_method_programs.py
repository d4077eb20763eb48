"""The training step of every method compiles ahead of time for a slice of TPUs."""

import dataclasses
import importlib.util

import jax
import pytest

from vop_jax.devices.mesh import make_mesh
from vop_jax.model.clip.families import SIZES
from vop_jax.model.clip.sizes import TextSize, VisionSize
from vop_jax.model.methods import METHODS
from vop_jax.plan import topology
from vop_jax.plan.programs import RunPrograms
from vop_jax.training.config import check_config, default_values

# The parts of ViT-B/32, narrower and with few layers: that compiles in seconds.
SIZE = dataclasses.replace(
    SIZES["vit_b32"],
    vision=VisionSize(256, 3, 4, 1024),
    text=TextSize(128, 3, 2, 512),
    image_size=64,
    patch_size=16,
    vocabulary=1024,
    embedding=128,
    eos_id=1023,
)
FRAMES, BATCH, GIB = 4, 32, 2**30


@pytest.fixture(scope="module")
def slice_of_16():
    if importlib.util.find_spec("libtpu") is None:
        pytest.fail("libtpu is not installed; .ci/run shows how", pytrace=False)
    # A program for chips that are not there can be stored, but not loaded again.
    cached = jax.config.jax_enable_compilation_cache
    jax.config.update("jax_enable_compilation_cache", False)
    yield topology.find_topology("v5e:4x4")
    jax.config.update("jax_enable_compilation_cache", cached)


@pytest.mark.tpu_plugin
@pytest.mark.parametrize("name", [x for x, row in METHODS.items() if row.trained])
def test_the_step_of_each_method_compiles(name, slice_of_16):
    values = default_values(name, "msrvtt_9k") | {
        "num_frames": FRAMES,
        "batch_size": BATCH,
        "prompts": dataclasses.asdict(
            METHODS[name].prompt_config(SIZE.vision.layers, FRAMES)
        ),
    }
    values["prompts"].pop("num_frames")
    values["compute"] |= {"scan": True, "remat": "lean", "dtype": "bfloat16"}
    config = check_config(values)
    mesh = make_mesh(config.mesh, slice_of_16.devices)
    program = RunPrograms(config, SIZE, mesh, caption_tokens=32).train_step(BATCH)
    # Two videos a chip.
    videos = 2 * FRAMES * SIZE.image_size**2 * 3
    assert videos < program.arguments < GIB
    # A step this small may need none outside the chip's own memory.
    assert program.temporaries < GIB
    assert program.flops > 0
    # Every chip needs the other chips' features, and the sum of all gradients.
    kinds = {x.kind for x in program.collectives}
    assert kinds & {"all-gather", "all-reduce"}
