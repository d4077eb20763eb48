"""bfloat16 on each platform: which dtypes are multiplied, and what comes out of it."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from programs import equations
from rounding import cosines
from step_problem import ONE, PROMPTS, SIZE, problem
from tiers import by_hand_except, slow_except

from vop_jax.devices.flops import count_flops
from vop_jax.devices.mesh import make_mesh
from vop_jax.model import compute as compute_module
from vop_jax.model.clip.families import SIZES
from vop_jax.model.clip.precision import Precision
from vop_jax.model.clip.products import product
from vop_jax.model.compute import ComputeConfig
from vop_jax.model.dual_encoder import DualEncoder
from vop_jax.model.methods import METHODS
from vop_jax.model.stored import store_frozen
from vop_jax.model.trained import select, trained_mask
from vop_jax.optimization.train_step import make_loss_and_gradient

WIDE = Precision("bfloat16", "float32")
NARROW = Precision("bfloat16", "bfloat16")


class Device(NamedTuple):
    platform: str


def products(function, *arguments):
    """The dtypes (left, right, result) of every matrix product."""
    return [
        tuple(str(x.aval.dtype) for x in (*equation.invars, *equation.outvars))
        for equation in equations(jax.make_jaxpr(function)(*arguments).jaxpr)
        if equation.primitive is jax.lax.dot_general_p
    ]


def train_step(method, dtype, **fields):
    """Loss and gradient on this CPU, and their arguments."""
    variables, batch = problem(method)
    mask = trained_mask(variables, METHODS[method].trained)
    trainable = select(variables, mask, trained=True)
    frozen = store_frozen(select(variables, mask, trained=False), dtype)
    mesh = make_mesh(ONE, jax.devices()[:1])
    model = DualEncoder(SIZE, PROMPTS[method], ComputeConfig(dtype, **fields))
    return make_loss_and_gradient(model, mesh), (trainable, frozen, batch)


@pytest.mark.parametrize("remat", slow_except(["none", "lean", "full"], "lean"))
@pytest.mark.parametrize("method", ["vop", "full"])
def test_a_cpu_multiplies_bfloat16_into_float32(method, remat):
    """XLA's CPU compiler would compute any other kind of product in float32."""
    run, arguments = train_step(method, "bfloat16", remat=remat)
    kinds = products(run, *arguments)
    narrow = ("bfloat16", "bfloat16", "float32")
    # The output projections and the loss are small.
    assert set(kinds) == {narrow, ("float32",) * 3}
    assert kinds.count(narrow) > 30


def test_a_tpu_stores_bfloat16_results():
    variables, batch = problem("vop")
    compute = ComputeConfig("bfloat16").on(Device("tpu"), SIZE)
    assert compute.precision == NARROW
    model = DualEncoder(SIZE, PROMPTS["vop"], compute)
    kinds = products(model.apply, variables, batch["frames"], batch["text_ids"])
    assert kinds.count(("bfloat16",) * 3) >= 6 * 2 * 2


@pytest.mark.parametrize("scan", slow_except([True, False], False))
def test_a_frozen_kernel_costs_no_gradient(scan):
    counts = {}
    for dtype in ("float32", "bfloat16"):
        run, arguments = train_step("vop", dtype, scan=scan)
        counts[dtype] = count_flops(run, *arguments)
    assert counts["bfloat16"] == counts["float32"]


@pytest.mark.parametrize("contracted", [1, 2])
def test_the_gradient_of_a_wide_product(contracted):
    keys = jax.random.split(jax.random.key(0), 3)
    rows = jax.random.normal(keys[0], (5, 4, 6, 8))
    kernel = jax.random.normal(keys[1], (6, 8, 7)[2 - contracted :])
    out = jax.random.normal(
        keys[2], (*rows.shape[:-contracted], *kernel.shape[contracted:])
    )

    def gradients(precision):
        def loss(rows, kernel):
            return (product(rows, kernel, precision, contracted) * out).sum()

        return jax.grad(loss, argnums=(0, 1))(rows, kernel)

    for ours, right in zip(gradients(WIDE), gradients(Precision()), strict=True):
        assert ours.dtype == jnp.float32
        # Both operands are rounded to 8 bits, and nothing else.
        assert np.linalg.norm(ours - right) < 0.01 * np.linalg.norm(right)
        assert np.linalg.norm(ours - right) > 0


def test_the_gradient_of_a_stored_kernel_has_its_dtype():
    kernel = jnp.ones((8, 3), jnp.bfloat16)
    found = jax.grad(lambda k: product(jnp.ones((2, 8)), k, WIDE).sum())(kernel)
    assert found.dtype == jnp.bfloat16


@pytest.mark.slow
@pytest.mark.parametrize("method", by_hand_except(["vop", "vop_fc"], "vop_fc"))
def test_features_of_bfloat16_are_those_of_float32(method):
    size, rng = SIZES["vit_b32"], np.random.default_rng(1)
    config = METHODS[method].prompt_config(size.vision.layers, 4)
    frames = rng.integers(0, 256, (2, 4, 224, 224, 3), np.uint8)
    ids = rng.integers(1, size.eos_id - 1, (2, 16)).astype(np.int32)
    ids[:, -1] = size.eos_id
    cpu = jax.devices()[0]
    computes = [ComputeConfig(x).on(cpu, size) for x in ("float32", "bfloat16")]
    (found,) = cosines(size, config, computes, frames, ids)
    assert min(found) >= 0.9999


@pytest.mark.parametrize(
    ("platform", "instructions", "size", "wanted"),
    [
        ("tpu", (), "demo", "bfloat16"),
        ("tpu", (), "vit_b32", "bfloat16"),
        ("gpu", (), "vit_b32", "bfloat16"),
        ("cpu", (), "vit_b32", "float32"),
        ("cpu", ("avx512_bf16",), "vit_b32", "bfloat16"),
        ("cpu", ("amx_bf16",), "vit_l14", "bfloat16"),
        ("cpu", ("avx512_bf16",), "demo", "float32"),
    ],
)
def test_what_auto_is(monkeypatch, platform, instructions, size, wanted):
    monkeypatch.setattr(
        compute_module,
        "multiplies_bfloat16",
        lambda device: device.platform != "cpu" or bool(instructions),
    )
    device = Device(platform)
    found = ComputeConfig("auto", scan=False).with_dtype(device, SIZES[size])
    assert found == ComputeConfig(wanted, scan=False)
    assert ComputeConfig("auto").on(device, SIZES[size]).dtype == wanted


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_dtype_that_was_asked_for_is_kept(dtype):
    config = ComputeConfig(dtype)
    assert config.with_dtype(Device("tpu"), SIZES["demo"]) == config
    assert config.with_dtype(Device("cpu"), SIZES["demo"]) == config


def test_auto_has_no_precision_before_it_is_resolved():
    with pytest.raises(ValueError, match="auto"):
        _ = ComputeConfig("auto").precision
