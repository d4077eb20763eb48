"""Prompts from one latent, and global prompts: the paper's sequences; counts."""

import dataclasses
import functools
import math

import jax
import jax.numpy as jnp
import naive_latent
import numpy as np
import pytest
from fusion_problem import reference_gradient
from programs import equations
from small_families import FAMILIES
from small_sizes import long, small
from tiers import by_hand, slow

from data_pipelines.console.errors import UserError
from vop_jax.devices.flops import count_flops
from vop_jax.model.clip.families import SIZES
from vop_jax.model.compute import ComputeConfig
from vop_jax.model.dual_encoder import DualEncoder
from vop_jax.model.methods import METHODS
from vop_jax.model.prompts.config import PromptConfig
from vop_jax.model.shapes import abstract_variables, added_shapes
from vop_jax.model.tree_paths import from_paths, paths
from vop_jax.optimization.config import OptimizerConfig
from vop_jax.optimization.losses import contrastive_loss
from vop_jax.optimization.optimizer import make_optimizer
from vop_jax.training.config import check_config, default_values
from vop_jax.training.preflight import check_backbone

SMALL = small(4, 3)
# Its text tower is the deeper one.
LONG = long(2, 3)
LINEAR = PromptConfig(global_length=4)
TRANSFORMER = PromptConfig(global_length=4, latent="transformer")
CONFIGS = {
    "linear": LINEAR,
    "linear, postfix kept": dataclasses.replace(LINEAR, postfix=True),
    "linear, one of each": PromptConfig(global_length=1),
    "transformer": TRANSFORMER,
    "transformer and lora": dataclasses.replace(TRANSFORMER, lora_rank=2),
    "linear and lora": dataclasses.replace(LINEAR, lora_rank=2),
    "linear and adapters": dataclasses.replace(LINEAR, adapter="mlp", adapter_width=3),
}


def draw(size, config, seed=0):
    """Random variables: every leaf has a say."""
    rng = np.random.default_rng(seed)

    def one(path, leaf):
        middle = {"scale": 1.0, "logit_scale": 2.0}.get(path[-1].key, 0.0)
        return jnp.asarray(middle + rng.normal(0, 0.2, leaf.shape), jnp.float32)

    return jax.tree_util.tree_map_with_path(one, abstract_variables(size, config))


def inputs(size, frames, lengths, seed=1):
    """Videos and captions, padded with zeros behind EOT."""
    rng = np.random.default_rng(seed)
    side = size.image_size
    pixels = rng.integers(0, 256, (len(lengths), frames, side, side, 3), np.uint8)
    ids = np.zeros((len(lengths), max(lengths)), np.int32)
    for row, length in zip(ids, lengths, strict=True):
        words = rng.integers(1, size.eos_id - 1, length - 2)
        row[:length] = [size.eos_id - 1, *words, size.eos_id]
    return pixels, ids


SMALL_ONES, LONG_ONES = (SMALL, 3, (3, 7, 12)), (LONG, 5, (3, 40, 77, 20))
FEW = (LONG, 2, (3, 77))


@pytest.mark.parametrize(
    ("name", "problem", "compute"),
    [
        slow("transformer", FEW, ComputeConfig()),
        slow("transformer", LONG_ONES, ComputeConfig(scan=False)),
        slow("transformer", SMALL_ONES, ComputeConfig(remat="full")),
        by_hand("transformer and lora", SMALL_ONES, ComputeConfig()),
        by_hand("linear, postfix kept", FEW, ComputeConfig()),
        slow("linear, postfix kept", SMALL_ONES, ComputeConfig()),
        slow("linear", LONG_ONES, ComputeConfig(scan=False)),
        slow("linear", SMALL_ONES, ComputeConfig(remat="full")),
        slow("linear, one of each", LONG_ONES, ComputeConfig(remat="lean")),
        slow("linear and lora", SMALL_ONES, ComputeConfig(scan=False)),
        slow("linear and adapters", SMALL_ONES, ComputeConfig(scan=False)),
        slow("linear", (FAMILIES["eva02"], 2, (3, 9)), ComputeConfig()),
    ],
)
def test_features_and_gradients(name, problem, compute):
    size, frames, lengths = problem
    config = dataclasses.replace(CONFIGS[name], num_frames=frames)
    variables, (pixels, ids) = draw(size, config), inputs(size, frames, lengths)
    (_, wanted), reference = reference_gradient(
        lambda x: naive_latent.loss(size, config, x, pixels, ids), variables
    )
    model = DualEncoder(size, config, compute)

    def fast(variables):
        video, text, scale = model.apply(variables, pixels, ids)
        return contrastive_loss(video, text, scale), (video, text)

    (_, features), gradient = reference_gradient(fast, variables)
    for ours, theirs in zip(features, wanted, strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-5)
    check_gradients(paths(gradient), paths(reference))


def check_gradients(gradient, reference):
    """1e-4 of each leaf's norm; that of the postfix is zero."""
    whole = max(np.linalg.norm(x) for x in reference.values())
    for path, wanted in reference.items():
        away, norm = np.linalg.norm(gradient[path] - wanted), np.linalg.norm(wanted)
        if "postfix" in path:
            assert not np.any(gradient[path]), path
            assert not np.any(wanted), path
            continue
        # The bias of a key shifts all scores of a row alike.
        allowed = 1e-4 * norm if "k_proj.bias" not in path else 1e-6 * whole
        assert away <= allowed, path
        assert norm > 1e-4 * whole or "k_proj.bias" in path, path


@pytest.mark.slow
def test_a_prompt_more_or_less_is_another_function():
    """Negative control of the comparison: the SOT token sees no prompt."""
    config = dataclasses.replace(LINEAR, num_frames=2)
    variables, (_, ids) = draw(LONG, config), inputs(LONG, 2, (3, 7))
    # In front of all words they change SOT's row, and by it all others.
    made = naive_latent.made_of(LONG, config, variables, 2)[1]
    before = PromptConfig(text_length=4)
    moved = {"text": {"prompts": {"text_prompts": made}}}
    moved = {"params": variables["params"], "prompts": moved}
    ours, other = (
        jax.jit(functools.partial(DualEncoder(LONG, x).apply, method="encode_texts"))(
            y, ids
        )
        for x, y in ((config, variables), (before, moved))
    )
    assert np.abs(other - ours).max() > 1e-3


def test_a_video_has_one_row():
    variables, (pixels, _) = draw(LONG, LINEAR), inputs(LONG, 12, (3, 3))

    def rows(model, frames):
        return model.vision(frames)

    model = DualEncoder(LONG, LINEAR)
    found = jax.eval_shape(
        functools.partial(model.apply, method=rows), variables, pixels
    )
    assert found.shape == (2, 1, LONG.embedding)


BOUND = math.sqrt(6 / (3 * 32**2 + 768))
LEAVES = {
    "dgl_linear": {
        "global_prompts": (4, 768),
        "latent": (4, 12 * 768),
        "text_prefix.weight": (512, 768),
        "text_prefix.bias": (512,),
    },
    "dgl_transformer": {
        "global_prompts": (4, 768),
        "latent": (8 + 4 * 12, 12 * 768),
        **{
            f"dgl.block.self_attn.{x}_proj.{name}": shape
            for x in ("q", "k", "v", "out")
            for name, shape in {"weight": (768, 768), "bias": (768,)}.items()
        },
        **{
            f"dgl.block.layer_norm{i}.{name}": (768,)
            for i in (1, 2)
            for name in ("weight", "bias")
        },
        "dgl.block.mlp.fc1.weight": (3072, 768),
        "dgl.block.mlp.fc1.bias": (3072,),
        "dgl.block.mlp.fc2.weight": (768, 3072),
        "dgl.block.mlp.fc2.bias": (768,),
        "dgl.text_mlp.fc1.weight": (1536, 768),
        "dgl.text_mlp.fc1.bias": (1536,),
        "dgl.text_mlp.fc2.weight": (512, 1536),
        "dgl.text_mlp.fc2.bias": (512,),
    },
}


@pytest.mark.parametrize("method", LEAVES)
def test_what_is_trained_on_vit_b32(method):
    size, config = SIZES["vit_b32"], METHODS[method].prompt_config(12)
    found = added_shapes(size, config)
    assert {x.removeprefix("prompts/shared/"): y for x, y in found.items()} == (
        LEAVES[method]
    )


def test_what_reaches_nothing_is_as_many_again():
    size, config = SIZES["vit_b32"], METHODS["dgl_linear"].prompt_config(12)
    kept = added_shapes(size, dataclasses.replace(config, postfix=True))
    assert sum(map(math.prod, kept.values())) == 827_392
    # Without a config that keeps them they are not there.
    assert sum(map(math.prod, added_shapes(size, config).values())) == 433_664


def initial(size, config):
    """The first values of the added leaves."""
    model, key = DualEncoder(size, config), jax.random.key(0)
    pixels, ids = inputs(size, config.num_frames, (3,))

    def prompts(key):
        return model.init({"params": key, "prompts": key}, pixels, ids)["prompts"]

    return {
        x.removeprefix("shared/"): np.asarray(y)
        for x, y in paths(jax.jit(prompts)(key)).items()
    }


def check_uniform(values, bound):
    """Uniform: within its bounds, near to them, and of that deviation."""
    most = np.abs(values).max()
    assert 0.9 * bound < most <= bound
    assert np.std(values) == pytest.approx(bound / math.sqrt(3), rel=0.1)


def test_initial_values():
    config = PromptConfig(global_length=8, num_frames=1, postfix=True)
    found = initial(LONG, config)
    for name in ("global_prompts", "latent"):
        check_uniform(found[name], math.sqrt(6 / (3 * 8**2 + 48)))
    for name in ("text_prefix", "text_postfix"):
        check_uniform(found[f"{name}.weight"], 48**-0.5)
        assert np.abs(found[f"{name}.bias"]).max() <= 48**-0.5
    assert np.any(found["text_prefix.weight"] != found["text_postfix.weight"])


def test_initial_values_of_the_transformer():
    found = initial(LONG, dataclasses.replace(TRANSFORMER, num_frames=2))
    check_uniform(found["global_prompts"], math.sqrt(6 / (3 * 8**2 + 48)))
    latent = found["latent"]
    assert latent.shape == (16, 3 * 48)
    assert np.std(latent) == pytest.approx(1, rel=0.05)
    assert abs(latent.mean()) < 0.05
    # A normal distribution: a uniform one of that deviation ends at 1.73.
    assert np.abs(latent).max() > 2.5
    bounds = {
        **{f"self_attn.{x}_proj": math.sqrt(6 / (4 * 48)) for x in "qkv"},
        **{"self_attn.out_proj": 48**-0.5, "mlp.fc1": 48**-0.5, "mlp.fc2": 192**-0.5},
    }
    for name, bound in bounds.items():
        check_uniform(found[f"dgl.block.{name}.weight"], bound)
        bias = found[f"dgl.block.{name}.bias"]
        if "attn" in name:
            assert not bias.any()
        else:
            assert 0 < np.abs(bias).max() <= bound
    for i in (1, 2):
        assert np.all(found[f"dgl.block.layer_norm{i}.weight"] == 1)
        assert not found[f"dgl.block.layer_norm{i}.bias"].any()
    check_uniform(found["dgl.text_mlp.fc1.weight"], 48**-0.5)
    check_uniform(found["dgl.text_mlp.fc2.weight"], 96**-0.5)


def test_what_is_thrown_away_is_not_computed():
    """Matrix products of a forward pass, against `vop` with as many prompts."""
    size, found = SIZES["vit_b32"], {}
    frames = jax.ShapeDtypeStruct((2, 12, 224, 224, 3), jnp.uint8)
    ids = jax.ShapeDtypeStruct((2, 32), jnp.int32)
    for name, config in {
        "vop": PromptConfig(text_length=4, video_length=8),
        "dgl": LINEAR,
    }.items():
        model = DualEncoder(size, config)
        variables = abstract_variables(size, config)
        found[name] = count_flops(model.apply, variables, frames, ids)
    # The global prompts are 4 rows beside 600. Keys and values made twice would be a
    # sixth more, and the frames' rows in the last layer a fifteenth.
    assert found["vop"] < found["dgl"] < 1.006 * found["vop"]


@pytest.mark.parametrize("form", ["linear", "transformer"])
def test_decay_spares_biases_and_norms(form):
    config = PromptConfig(global_length=2, num_frames=2, latent=form)
    ones = from_paths({path: jnp.ones(1) for path in added_shapes(LONG, config)})
    settings = OptimizerConfig(learning_rate=1.0, warmup=0, weight_decay=0.5)
    optimizer = make_optimizer(settings, ones, 10)
    nothing = jax.tree.map(jnp.zeros_like, ones)
    updates, _ = jax.jit(optimizer.update)(nothing, optimizer.init(ones), ones)
    for path, update in paths(updates).items():
        spared = path.endswith(".bias") or "layer_norm" in path
        assert np.all(np.asarray(update) == (0 if spared else -0.5)), path


@pytest.mark.parametrize(
    ("method", "dataset", "rate"),
    [
        ("dgl_linear", "msrvtt_9k", 5e-3),
        ("dgl_linear", "lsmdc", 1e-2),
        ("dgl_linear", "activitynet", 1e-2),
        ("dgl_transformer", "msrvtt_9k", 2e-3),
        ("dgl_transformer", "lsmdc", 2e-3),
        ("vop", "lsmdc", 1e-3),
    ],
)
def test_learning_rates_are_those_of_the_released_scripts(method, dataset, rate):
    optimizer = default_values(method, dataset)["optimizer"]
    assert optimizer["learning_rate"] == rate
    assert optimizer["weight_decay"] == 0.2


@pytest.mark.parametrize("form", ["linear", "transformer"])
def test_a_narrow_dtype_runs_through_all_layers(form):
    """A loop's carry must keep its type, and prompts come in float32."""
    config = PromptConfig(global_length=2, num_frames=3, latent=form)
    model = DualEncoder(SMALL, config, ComputeConfig("bfloat16", remat="lean"))
    frames = jax.ShapeDtypeStruct((2, 3, 24, 24, 3), jnp.uint8)
    ids = jax.ShapeDtypeStruct((2, 9), jnp.int32)
    program = jax.make_jaxpr(model.apply)(
        abstract_variables(SMALL, config), frames, ids
    )
    assert {x.dtype for x in program.out_avals} == {jnp.dtype("float32")}
    loops = [x for x in equations(program.jaxpr) if x.primitive.name == "scan"]
    carried = {x.aval.shape: x.aval.dtype for loop in loops for x in loop.outvars}
    assert carried[2, 1, 2, 32] == jnp.bfloat16


@pytest.mark.parametrize(
    ("family", "says"),
    [
        ("siglip_b16", "does not read a class token"),
        ("pe_core_b16", "does not read a class token"),
    ],
)
def test_towers_that_have_no_such_row_are_refused(family, says):
    config = check_config(default_values("dgl_linear", backbone=family))
    with pytest.raises(UserError, match=f"global_length is 4, but .* {says}"):
        check_backbone(config, SIZES[family])
    # And so does the model itself.
    with pytest.raises(ValueError, match=says):
        abstract_variables(SIZES[family], config.prompts)


def test_text_towers_that_look_behind_the_caption_are_refused():
    for change in ({"causal": False}, {"reads": "last"}):
        text = dataclasses.replace(SMALL.text, **change)
        size = dataclasses.replace(SMALL, text=text)
        assert "text tower does not read the EOT" in LINEAR.unfit(size)[1]
    assert not LINEAR.unfit(SMALL)
    assert not PromptConfig(text_length=2).unfit(SIZES["siglip_b16"])
