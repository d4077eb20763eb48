"""Parts of other families' towers: what is refused, read, turned, counted, sharded."""

import dataclasses

import jax
import jax.numpy as jnp
import naive
import numpy as np
import pytest
from jax.sharding import PartitionSpec as P
from programs import equations
from small_families import EVA02, FAMILIES, PE_CORE, PE_CORE_G, SIGLIP

from data_pipelines.console.errors import UserError
from vop_jax.devices.config import MeshConfig
from vop_jax.devices.flops import count_flops
from vop_jax.devices.mesh import make_mesh, tree_specs
from vop_jax.model.clip import layers
from vop_jax.model.clip.attention import attend
from vop_jax.model.clip.families import SIZES
from vop_jax.model.clip.pooling import Pooling
from vop_jax.model.clip.rotary import rotation_of
from vop_jax.model.clip.sizes import Rotary, TextSize, VisionSize
from vop_jax.model.compute import ComputeConfig
from vop_jax.model.counts import count, count_methods
from vop_jax.model.dual_encoder import DualEncoder
from vop_jax.model.embedder import Embedder
from vop_jax.model.methods import BACKBONE, METHODS
from vop_jax.model.prompts.config import PromptConfig
from vop_jax.model.shapes import abstract_variables
from vop_jax.model.trained import lacking_parameters, select, trained_mask
from vop_jax.model.tree_paths import paths
from vop_jax.optimization.config import OptimizerConfig
from vop_jax.optimization.optimizer import make_optimizer
from vop_jax.optimization.train_step import initial_state, make_train_step, merge
from vop_jax.surface.inputs import check_padded
from vop_jax.training.config import check_config, default_values
from vop_jax.training.preflight import check_backbone

JOINT = PromptConfig(
    text_length=2, video_length=2, joint_length=3, split_layer=2, num_frames=2
)


def draw(size, config, seed=0):
    rng = np.random.default_rng(seed)
    return jax.tree_util.tree_map_with_path(
        lambda path, leaf: jnp.asarray(
            (path[-1].key == "scale") + rng.normal(0, 0.15, leaf.shape), jnp.float32
        ),
        abstract_variables(size, config),
    )


def frames_of(size, count=2):
    side = size.image_size
    rng = np.random.default_rng(1)
    return rng.integers(0, 256, (count, 2, side, side, 3), np.uint8)


@pytest.mark.parametrize("family", FAMILIES)
def test_every_parameter_is_decided_about(family):
    variables = abstract_variables(FAMILIES[family], PromptConfig(num_frames=2))
    chosen = paths(trained_mask(variables, BACKBONE))
    assert all(chosen.values())
    biases = paths(trained_mask(variables, METHODS["bias"].trained))
    found = {path for path, trains in biases.items() if trains}
    ends = {path.split("/")[-1] for path in found}
    assert ends <= {"bias", "patch_bias", "projection_bias"}
    # Every other leaf is no bias of a tower.
    assert not [x for x in biases.keys() - found if x.endswith("bias")] or (
        biases.keys() - found >= {"params/logit_bias"}
    )


def test_projections_that_are_not_there_are_not_trained():
    config = check_config(default_values("proj"))
    with pytest.raises(UserError, match=r"method=proj trains params/vision/projection"):
        check_backbone(config, SIZES["siglip_b16"])
    check_backbone(config, SIZES["pe_core_b16"])
    trained = METHODS["proj"].trained
    assert lacking_parameters(SIGLIP, trained) == [trained[0]]
    counted = count(EVA02, PromptConfig(num_frames=2), trained)
    # The vision tower's has a bias.
    assert counted.trainable_parameters == 24 * 20 + 20 + 16 * 20


@pytest.mark.campaign
def test_methods_that_do_not_fit_are_not_counted():
    # Its towers read neither a class token nor EOT.
    carried = {"dgl_linear", "dgl_transformer"}
    unfit = {"proj", "ivfusion", "discovla", "mv_adapter", "tempme", *carried}
    assert METHODS.keys() - count_methods(SIGLIP, 2).keys() == unfit
    unfit = {"tempme", *carried}
    assert METHODS.keys() - count_methods(PE_CORE, 2).keys() == unfit
    assert METHODS.keys() - count_methods(EVA02, 2).keys() == {"tempme"}


def test_prompts_among_the_words_need_an_end_to_count_from():
    values = default_values("vop")
    values["prompts"] |= {"text_layout": "modelscope"}
    config = check_config(values)
    with pytest.raises(UserError, match="text_layout is modelscope, but this backbone"):
        check_backbone(config, SIZES["siglip_b16"])
    check_backbone(config, SIZES["pe_core_b16"])


def test_a_tower_reads_something():
    with pytest.raises(ValueError, match="class token or pooling_heads"):
        VisionSize(8, 2, 2, 8, class_token=False)
    with pytest.raises(ValueError, match="heads of width 6"):
        rotation_of(Rotary(), 3, 6, before=0)


@pytest.mark.slow
def test_captions_that_are_read_to_the_end_are_never_cut():
    model = DualEncoder(SIGLIP, PromptConfig(num_frames=2))
    variables = draw(SIGLIP, PromptConfig(num_frames=2))
    ids = np.zeros((3, SIGLIP.context_length), np.int32)
    ids[:, :4] = [[5, 6, 7, 1], [8, 9, 1, 0], [4, 1, 0, 0]]
    mesh = make_mesh(MeshConfig(), jax.devices()[:1])
    found = Embedder(model, mesh).texts(variables, ids)
    want = naive.encode_texts(SIGLIP, PromptConfig(), variables, ids)
    np.testing.assert_allclose(found, want, atol=1e-5)
    with pytest.raises(ValueError, match="takes 10, padding included"):
        model.apply(variables, ids[:, :8], method="encode_texts")
    # Cut and padded with another id they are other captions.
    other = np.where(ids == 0, 1, ids)
    changed = Embedder(model, mesh).texts(variables, other)
    assert np.abs(changed - found).max() > 1e-3


def test_ids_of_texts_whose_padding_is_read_are_complete():
    check_padded(np.zeros((2, 10), np.int32), 10)
    with pytest.raises(UserError, match="pass 10 token ids per text, padded as its"):
        check_padded(np.zeros((2, 9), np.int32), 10)


@pytest.mark.parametrize(
    "text",
    [
        TextSize(16, 2, 2, 16),
        TextSize(16, 2, 2, 16, causal=False),
        TextSize(16, 2, 2, 16, reads="last"),
    ],
    ids=["clip", "not causal", "last"],
)
def test_which_captions_keep_their_padding(text):
    size = dataclasses.replace(PE_CORE, text=text)
    assert size.full_captions == (text != TextSize(16, 2, 2, 16))


@pytest.mark.parametrize("size", [PE_CORE, EVA02], ids=["pe_core", "eva02"])
def test_a_class_token_is_not_turned(size):
    rotation = rotation_of(size.vision.rotary, 3, 8, before=1)
    np.testing.assert_array_equal(rotation.cos[0], 1)
    np.testing.assert_array_equal(rotation.sin[0], 0)
    assert np.abs(rotation.sin[-1]).min() > 0


@pytest.mark.parametrize("prompts", [0, 3])
def test_prompts_are_not_turned(prompts):
    """With all places moved on, patches see each other as before, but not prompts."""
    size, config = PE_CORE_G, PromptConfig(video_length=prompts, num_frames=2)
    rotary = dataclasses.replace(size.vision.rotary, offset=3.0)
    moved = dataclasses.replace(
        size, vision=dataclasses.replace(size.vision, rotary=rotary)
    )
    variables, frames = draw(size, config), frames_of(size)
    here, there = (
        jax.jit(
            lambda tree, x=x: DualEncoder(x, config).apply(
                tree, frames, method="encode_videos"
            )
        )(variables)
        for x in (size, moved)
    )
    difference = np.abs(here - there).max()
    assert difference > 1e-3 if prompts else difference < 1e-5


def test_the_kernel_for_long_sequences_gets_turned_rows(monkeypatch):
    """Two frames attend jointly, each patch turned by its place in its own frame."""
    size = PE_CORE.vision
    rotation = rotation_of(size.rotary, 3, 8, before=1)
    tokens = jnp.asarray(
        np.random.default_rng(0).normal(size=(1, 1, 20, 24)), "float32"
    )
    block = layers.Block(size, splash=True)
    params = block.init(jax.random.key(0), tokens)
    given = []

    def kernel(query, keys, values):
        given.append(keys[0])
        return attend(query, keys, values)

    plain, *_ = block.apply(params, tokens, rotation=rotation)
    monkeypatch.setattr(layers, "pays", lambda query, mask: mask is None)
    monkeypatch.setattr(layers, "splash_attend", kernel)
    ours, *_ = block.apply(params, tokens, rotation=rotation)
    np.testing.assert_array_equal(ours, plain)
    block.apply(params, tokens)
    turned, still = given
    np.testing.assert_array_equal(turned[0, 0, ::10], still[0, 0, ::10])
    assert np.abs(turned - still)[0, 0, [9, 19]].max(axis=(1, 2)).min() > 1e-2


@pytest.mark.slow
@pytest.mark.parametrize("remat", ["lean", "full"])
def test_remat_changes_nothing(remat):
    size, config = PE_CORE, JOINT
    variables = draw(size, config)
    frames = frames_of(size)

    def gradient(remat):
        model = DualEncoder(size, config, ComputeConfig(remat=remat))

        def loss(prompts, params):
            tree = {"params": params, "prompts": prompts}
            return (model.apply(tree, frames, method="encode_videos") ** 3).sum()

        return jax.jit(jax.grad(loss))(variables["prompts"], variables["params"])

    found, want = gradient(remat), gradient("none")
    for ours, theirs in zip(jax.tree.leaves(found), jax.tree.leaves(want), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("family", ["siglip", "eva02"])
def test_a_cpu_multiplies_bfloat16_into_float32(family):
    size = FAMILIES[family]
    compute = ComputeConfig("bfloat16").on(jax.devices()[0], size)
    model = DualEncoder(size, JOINT, compute)
    shapes = abstract_variables(size, JOINT)
    ids = jax.ShapeDtypeStruct((2, size.context_length), jnp.int32)
    traced = jax.make_jaxpr(model.apply)(shapes, frames_of(size), ids)
    kinds = [
        tuple(str(x.aval.dtype) for x in (*one.invars, *one.outvars))
        for one in equations(traced.jaxpr)
        if one.primitive is jax.lax.dot_general_p
    ]
    narrow = ("bfloat16", "bfloat16", "float32")
    # Projections, and the one row of each frame that the probe makes, are small.
    assert set(kinds) == {narrow, ("float32",) * 3}
    assert kinds.count(narrow) > 4 * kinds.count(("float32",) * 3)


@pytest.mark.slow
@pytest.mark.parametrize("family", ["siglip", "pe_core", "pe_core_g", "eva02"])
def test_fewer_operations_than_the_naive_form(family):
    """By the size of a real tower, in which the widths outweigh the sequence."""
    size = FAMILIES[family]
    config = PromptConfig(text_length=4, video_length=6, num_frames=2)
    shapes = abstract_variables(size, config)
    ids = jax.ShapeDtypeStruct((2, size.context_length), jnp.int32)
    frames = frames_of(size)
    model = DualEncoder(size, config, ComputeConfig(scan=False))

    def plain(variables, frames, ids):
        videos = naive.encode_videos(size, config, variables, frames)
        return videos, naive.encode_texts(size, config, variables, ids)

    ours = count_flops(lambda *x: model.apply(*x)[:2], shapes, frames, ids)
    assert ours < 0.75 * count_flops(plain, shapes, frames, ids)


def test_the_probe_costs_less_than_a_layer_of_keys():
    """No key or value of any row is computed, only one mean row a head."""
    size = SIZES["siglip_b16"].vision.pooling
    assert size is not None
    rows = jax.ShapeDtypeStruct((2, 12, 196, size.width), jnp.float32)
    pooling = Pooling(size)
    params = jax.eval_shape(pooling.init, jax.random.key(0), rows)
    ours = count_flops(pooling.apply, params, rows)
    keys_and_values = 2 * 2 * 2 * 12 * 196 * size.width**2
    assert ours < keys_and_values / 4


def test_the_probe_is_attention():
    size = PE_CORE.vision.pooling
    rows = jnp.asarray(np.random.default_rng(0).normal(size=(2, 3, 7, 24)), "float32")
    params = draw(PE_CORE, PromptConfig(num_frames=2))["params"]["vision"]["pooling"]
    ours = Pooling(size).apply({"params": params}, rows)
    want = naive.pooled(rows.reshape(6, 7, 24), params, PE_CORE.vision)
    np.testing.assert_allclose(ours.reshape(6, 24), want, atol=1e-5)
    # Adding a constant to all keys, as their bias does, changes no softmax.
    biased = jax.tree.map(jnp.copy, params)
    biased["attention"]["key"]["bias"] += 5.0
    again = Pooling(size).apply({"params": biased}, rows)
    np.testing.assert_array_equal(again, ours)


def test_kernels_of_every_part_are_sharded():
    mesh = make_mesh(MeshConfig(data=4, fsdp=2))
    specs = {}
    for size in (SIGLIP, EVA02, PE_CORE_G):
        variables = abstract_variables(size, PromptConfig(num_frames=2))
        specs |= paths(tree_specs(mesh, variables))
    for part in ("attention/query", "attention/out", "mlp/fc_1", "mlp/fc_2"):
        assert "fsdp" in specs[f"params/vision/pooling/{part}/kernel"], part
    for part in ("gate", "up", "fc_2"):
        assert "fsdp" in specs[f"params/vision/layers/mlp/{part}/kernel"], part
    assert specs["params/vision/pooling/probe"] == P()
    # A hidden width that is not divisible: the other axis is.
    leaf = {"mlp": {"fc_2": {"kernel": jax.ShapeDtypeStruct((7, 8), jnp.float32)}}}
    assert paths(tree_specs(mesh, leaf))["mlp/fc_2/kernel"] == P(None, "fsdp")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("family", "method", "loss"),
    [("siglip", "vop_c", "sigmoid"), ("eva02", "bias", "auto")],
)
def test_only_the_trained_leaves_change(family, method, loss):
    size, row = FAMILIES[family], METHODS[method]
    config = row.prompt_config(size.vision.layers, 2)
    variables = draw(size, config)
    mask = trained_mask(variables, row.trained)
    trainable, frozen = (select(variables, mask, trained=x) for x in (True, False))
    optimizer = make_optimizer(OptimizerConfig(warmup=0), trainable, 10)
    mesh = make_mesh(MeshConfig(), jax.devices()[:1])
    step = make_train_step(DualEncoder(size, config), optimizer, mesh, loss=loss)
    ids = np.full((4, size.context_length), size.eos_id, np.int32)
    ids[:, 0] = [3, 4, 5, 6]
    state, metrics = jax.jit(step)(
        initial_state(trainable, optimizer, 1e-3),
        frozen,
        {"frames": frames_of(size, 4), "text_ids": ids},
    )
    assert np.isfinite(metrics["loss"])
    after, chosen = paths(merge(state.trainable, frozen)), paths(mask)
    for path, before in paths(variables).items():
        same = np.array_equal(before, after[path])
        assert same != chosen[path], path
