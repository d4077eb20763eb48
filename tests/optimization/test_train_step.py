"""The step on any layout, in micro-batches, with a chunked loss and with remat."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from programs import equations
from step_problem import ONE, PROMPTS, SIZE, problem
from tiers import by_hand, slow

from data_pipelines.console.errors import UserError
from vop_jax.devices.config import MeshConfig
from vop_jax.devices.mesh import BATCH, make_mesh, put_batch, put_tree
from vop_jax.model.clip.remat import POLICIES
from vop_jax.model.compute import ComputeConfig
from vop_jax.model.dual_encoder import DualEncoder
from vop_jax.model.methods import METHODS
from vop_jax.model.stored import store_frozen
from vop_jax.model.trained import select, trained_mask
from vop_jax.optimization.losses import contrastive_loss
from vop_jax.optimization.train_step import make_loss_and_gradient, merge
from vop_jax.plan.collectives import count_collectives


def prepare(method, mesh_config, compute, **options):
    """The compiled function and its arguments, on a mesh of fake devices."""
    variables, batch = problem(method)
    count = mesh_config.data * mesh_config.fsdp
    mesh = make_mesh(mesh_config, jax.devices()[:count])
    mask = trained_mask(variables, METHODS[method].trained)
    trees = [put_tree(mesh, select(variables, mask, trained=x)) for x in (True, False)]
    model = DualEncoder(SIZE, PROMPTS[method], compute)
    run = jax.jit(make_loss_and_gradient(model, mesh, **options))
    arguments = (*trees, put_batch(mesh, batch))
    return run.lower(*arguments).compile(), arguments


@pytest.fixture(scope="module")
def reference():
    """Loss and gradient by plain differentiation on one device, by method."""
    found = {}

    def of(method):
        if method not in found:
            variables, batch = problem(method)
            mask = trained_mask(variables, METHODS[method].trained)
            trainable = select(variables, mask, trained=True)
            frozen = select(variables, mask, trained=False)
            model = DualEncoder(SIZE, PROMPTS[method])

            def loss(trainable):
                out = model.apply(
                    merge(trainable, frozen), batch["frames"], batch["text_ids"]
                )
                return contrastive_loss(*out)

            found[method] = jax.device_get(jax.jit(jax.value_and_grad(loss))(trainable))
        return found[method]

    return of


def assert_same(got, want):
    # A few units in the last place of a loss of 3.
    assert got[0] == pytest.approx(float(want[0]), abs=2e-6)
    leaves = zip(jax.tree.leaves(got[1]), jax.tree.leaves(want[1]), strict=True)
    whole = np.sqrt(sum((x**2).sum() for x in jax.tree.leaves(want[1])))
    for ours, theirs in leaves:
        # A key's bias has no gradient but rounding.
        allowed = 1e-5 * max(np.linalg.norm(theirs), 1e-2 * whole)
        assert np.linalg.norm(ours - theirs) <= allowed


@pytest.mark.parametrize(
    ("method", "layout", "remat", "options"),
    [
        slow("vop", ONE, "none", {"micro_batch": 2, "loss_chunk": 2}),
        slow("vop", MeshConfig(data=4), "lean", {}),
        slow("vop", MeshConfig(data=2, fsdp=2), "none", {}),
        by_hand("dgl_linear", MeshConfig(data=2), "none", {}),
        slow("dgl_linear", MeshConfig(data=2, fsdp=2), "lean", {"micro_batch": 4}),
        slow("dgl_transformer", MeshConfig(data=2), "full", {}),
        slow("tempme", MeshConfig(data=8), "lean", {}),
        by_hand("tempme", MeshConfig(data=2, fsdp=2), "full", {"micro_batch": 4}),
        slow("vop", ONE, "none", {}),
        by_hand("vop_fc", ONE, "full", {"micro_batch": 4}),
        slow("vop_fc", MeshConfig(data=4), "none", {"loss_chunk": 4}),
        slow("vop_fc", MeshConfig(data=2, fsdp=2), "lean", {"micro_batch": 4}),
        slow("full", MeshConfig(data=2, fsdp=4), "none", {}),
        by_hand("full", MeshConfig(data=2), "lean", {"micro_batch": 4}),
    ],
)
def test_any_layout_gives_the_same_gradient(method, layout, remat, options, reference):
    run, inputs = prepare(method, layout, ComputeConfig(remat=remat), **options)
    assert_same(jax.device_get(run(*inputs)), reference(method))
    _, frozen, batch = inputs
    assert batch["frames"].sharding.spec == BATCH
    kernel = frozen["params"]["vision"]["layers"]["attention"]["out"]["kernel"]
    if method == "vop":
        assert kernel.addressable_shards[0].data.size == kernel.size // layout.fsdp
        check_collectives(run, inputs[0], layout)


def check_collectives(run, trainable, layout):
    """The features once, their gradient once, one float32 sum; weights where split."""
    sent = count_collectives(run.as_text())
    by_kind = {"all-gather": [], "reduce-scatter": [], "all-reduce": []}
    for collective, times in sent.items():
        by_kind[collective.kind] += [collective.type] * times
    # On one device nothing is sent; the compiler may leave an exchange with itself.
    if layout == ONE:
        return
    features = f"f32[8,{2 * SIZE.embedding}]"
    assert by_kind["all-gather"].count(features) == 1
    assert by_kind["reduce-scatter"] == [
        f"f32[{8 // (layout.data * layout.fsdp)},{2 * SIZE.embedding}]"
    ]
    numbers = sum(leaf.size for leaf in jax.tree.leaves(trainable))
    assert by_kind["all-reduce"] == [f"f32[{1 + numbers}]"]
    assert (len(by_kind["all-gather"]) > 1) == (layout.fsdp > 1)


@pytest.mark.slow
def test_left_to_itself_the_compiler_sends_more():
    """Negative control: the same loss without `shard_map`."""
    variables, batch = problem("vop")
    mesh = make_mesh(MeshConfig(data=4), jax.devices()[:4])
    model = DualEncoder(SIZE, PROMPTS["vop"])

    def loss(prompts, params, batch):
        return contrastive_loss(
            *model.apply({"params": params, "prompts": prompts}, *batch.values())
        )

    compiled = (
        jax.jit(jax.grad(loss))
        .lower(
            put_tree(mesh, variables["prompts"]),
            put_tree(mesh, variables["params"]),
            put_batch(mesh, batch),
        )
        .compile()
    )
    assert count_collectives(compiled.as_text()).total() > 3


def test_the_loss_is_of_the_global_batch():
    """Negative control: halves of a batch have another loss than the whole."""
    rng = np.random.default_rng(0)
    video, text = rng.normal(0, 1, (2, 8, 6)).astype(np.float32)
    whole, half = (
        contrastive_loss(video, text, 1.0),
        contrastive_loss(video[:4], text[:4], 1.0),
    )
    assert abs(whole - half) > 1e-2


def test_micro_batches_that_do_not_divide_are_refused():
    mesh = make_mesh(MeshConfig(data=4), jax.devices()[:4])
    model = DualEncoder(SIZE, PROMPTS["vop"])
    with pytest.raises(
        UserError, match=r"config.micro_batch is 6, which does not divide over 4"
    ):
        make_loss_and_gradient(model, mesh, micro_batch=6)


def test_a_policy_says_what_is_kept():
    """Bytes that a vision tower keeps for the way back, by policy."""
    variables, batch = problem("vop")
    kept = {}
    for remat in POLICIES:
        model = DualEncoder(SIZE, PROMPTS["vop"], ComputeConfig(remat=remat))

        def pull(prompts, model=model):
            return jax.vjp(
                lambda prompts: model.apply(
                    {**variables, "prompts": prompts},
                    batch["frames"],
                    method="encode_videos",
                ),
                prompts,
            )[1]

        shapes = jax.tree.leaves(jax.eval_shape(pull, variables["prompts"]))
        kept[remat] = sum(x.size * x.dtype.itemsize for x in shapes)
    assert kept["full"] < kept["lean"] < kept["none"]


def test_what_bfloat16_leaves_in_float32():
    """Softmax, norms' statistics, loss and the prompts' gradient; products are not."""
    variables, batch = problem("vop_fc")
    mask = trained_mask(variables, METHODS["vop_fc"].trained)
    trainable = select(variables, mask, trained=True)
    frozen = store_frozen(select(variables, mask, trained=False), "bfloat16")
    kernel = frozen["params"]["vision"]["layers"]["mlp"]["fc_1"]["kernel"]
    assert kernel.dtype == jnp.bfloat16
    mesh = make_mesh(ONE, jax.devices()[:1])
    model = DualEncoder(SIZE, PROMPTS["vop_fc"], ComputeConfig(dtype="bfloat16"))
    run = make_loss_and_gradient(model, mesh)
    program = jax.make_jaxpr(run)(trainable, frozen, batch)
    assert {x.dtype for x in program.out_avals} == {jnp.dtype("float32")}
    types = {}
    for equation in equations(program.jaxpr):
        kinds = {str(x.aval.dtype) for x in equation.invars}
        types.setdefault(equation.primitive.name, set()).update(kinds)
    for name in ("exp", "log", "rsqrt", "reduce_max", "psum"):
        assert types[name] <= {"float32"}, name
    assert "bfloat16" in types["dot_general"]


class Device(NamedTuple):
    platform: str


def test_what_suits_a_device():
    tpu, cpu = Device("tpu"), Device("cpu")
    config = ComputeConfig()
    assert config.on(tpu, SIZE).attention == "splash"
    assert config.on(cpu, SIZE).attention == "xla"
    assert ComputeConfig(attention="xla").on(tpu, SIZE).attention == "xla"
