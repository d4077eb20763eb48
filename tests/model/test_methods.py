"""What is trained: numbers, strict rules, and that nothing else moves."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from tiers import slow

from vop_jax.devices.config import MeshConfig
from vop_jax.devices.mesh import make_mesh
from vop_jax.model.clip.families import SIZES
from vop_jax.model.counts import count_methods
from vop_jax.model.dual_encoder import DualEncoder
from vop_jax.model.methods import METHODS
from vop_jax.model.prompts.config import PromptConfig
from vop_jax.model.shapes import abstract_variables
from vop_jax.model.trained import count_trained, select, trained_mask
from vop_jax.model.tree_paths import paths
from vop_jax.optimization.config import OptimizerConfig
from vop_jax.optimization.optimizer import make_optimizer
from vop_jax.optimization.train_step import initial_state, make_train_step, merge
from vop_jax.parameters import PRINTED

# Trainable numbers for ViT-B/32 with 12 frames; the frame positions of F, which the
# paper does not count, apart.
COUNTS = {
    "zero_shot": 0,
    "full": 151_277_313,
    "bias": 171_008,
    "proj": 655_360,
    "partial": 10_240_256,
    "adapter_attn": 1_982_976,
    "adapter_ffn": 1_982_976,
    "vop": 122_880,
    "vop_p": 528_384,
    "vop_c": 14_257_152,
    "vop_f": 122_880 + 9_216,
    "vop_fp": 393_216 + 9_216,
    "vop_fc": 14_269_440 + 9_216,
    # Not of the paper, which prints no percentage for them.
    "lora": 491_520,
    "vop_lora": 122_880 + 491_520,
    # Global prompts, the latent, and the matrix that makes text prompts of it.
    "dgl_linear": 4 * 768 + 4 * 12 * 768 + 512 * 769,
    "dgl_transformer": 9_575_168,
    "mv_adapter": 3_325_696,
    # LoRA, and bottlenecks of 8 in four layers.
    "ivfusion": 491_520 + 4 * (2 * 8 * 768 + 8 + 768),
    "discovla": 543_776 + 2 * (2 * 8 * 512 + 8 + 512),
    # LoRA, and a row of each frame or group of frames in three joins.
    "tempme": 491_520 + (12 + 6 + 3) * 768,
}


@pytest.fixture(scope="module")
def counted():
    return count_methods(SIZES["vit_b32"], 12)


@pytest.mark.parametrize("name", METHODS)
def test_trainable_numbers(counted, name):
    counts = counted[name]
    assert counts.trainable_parameters == COUNTS[name]


@pytest.mark.parametrize("name", ["zero_shot", *PRINTED])
def test_the_papers_percentages(counted, name):
    # The paper's own arithmetic slips for F+C: 147,456 numbers.
    slip = 147_456 / 119_826_432 * 100 if name == "vop_fc" else 0
    printed = PRINTED.get(name, 0)
    assert counted[name].paper_percent - slip == pytest.approx(printed, abs=6e-4)


def test_the_papers_rule(counted):
    assert counted["full"].paper_parameters == 119_826_432
    assert counted["bias"].paper_parameters == 124_928
    assert counted["partial"].paper_parameters == 7_680_512
    assert counted["vop_fc"].paper_parameters == 14_269_440


@pytest.mark.parametrize(
    ("trained", "says"),
    [
        ((r"prompts/.*", r".*/text_prompts"), "claimed by"),
        ((r"prompts/.*", r"params/vision/nothing"), "no leaf matches"),
        (("params/logit_scale",), "no rule says whether prompts"),
    ],
)
def test_rules_are_strict(trained, says):
    variables = abstract_variables(SIZES["demo"], PromptConfig(text_length=2))
    with pytest.raises(ValueError, match=says):
        trained_mask(variables, trained)


def test_a_new_backbone_leaf_must_be_decided_about():
    params = abstract_variables(SIZES["demo"], PromptConfig())["params"]
    params["vision"]["novelty"] = jax.ShapeDtypeStruct((3,), jnp.float32)
    with pytest.raises(ValueError, match="no rule says whether params/vision/novelty"):
        trained_mask({"params": params}, METHODS["proj"].trained)


@pytest.mark.parametrize(
    "name",
    [
        "vop",
        slow("partial"),
        slow("bias"),
        slow("ivfusion"),
        slow("discovla"),
        slow("dgl_linear"),
        slow("dgl_transformer"),
        slow("tempme"),
        slow("mv_adapter"),
    ],
)
def test_only_the_trained_leaves_change(name):
    size, method = SIZES["demo"], METHODS[name]
    config = method.prompt_config(size.vision.layers, num_frames=2)
    model = DualEncoder(size, config)
    rng = np.random.default_rng(0)
    variables = jax.tree.map(
        lambda x: jnp.asarray(rng.normal(0, 0.1, x.shape), jnp.float32),
        abstract_variables(size, config),
    )
    mask = trained_mask(variables, method.trained)
    trainable = select(variables, mask, trained=True)
    frozen = select(variables, mask, trained=False)
    optimizer = make_optimizer(OptimizerConfig(warmup=0), trainable, 10)
    state = initial_state(trainable, optimizer, 1e-3)
    batch = {
        "frames": rng.integers(0, 256, (4, 2, 48, 48, 3), np.uint8),
        "text_ids": np.array([[1, word, size.eos_id] for word in (3, 4, 5, 6)]),
    }
    if method.loss == "alignment":
        # A caption of each frame.
        words = rng.integers(3, 9, (4, 2, 1))
        ends = np.full_like(words, size.eos_id)
        batch["frame_ids"] = np.concatenate([np.ones_like(words), words, ends], axis=-1)
    count = count_trained(variables, mask)
    moments = [x for x in jax.tree.leaves(state.optimizer) if x.ndim]
    # Two moments of what trains and of nothing else.
    assert sum(x.size for x in moments) == 2 * count
    mesh = make_mesh(MeshConfig(), jax.devices()[:1])
    step = jax.jit(make_train_step(model, optimizer, mesh, loss=method.loss or "auto"))
    state, metrics = step(state, frozen, batch)
    assert np.isfinite(metrics["loss"])
    after, chosen = paths(merge(state.trainable, frozen)), paths(mask)
    for path, before in paths(variables).items():
        same = np.array_equal(before, after[path])
        # The bias of a key moves all scores of a row alike: its gradient is rounding.
        assert same != chosen[path] or path.endswith("k_proj.bias"), path


def test_decay_spares_biases_and_clipping_sees_only_what_trains():
    tree = {
        "a": {"kernel": jnp.ones(3), "bias": jnp.ones(3)},
        "b": {"kernel": optax.MaskedNode()},
    }
    config = OptimizerConfig(learning_rate=1.0, warmup=0, weight_decay=0.5)
    optimizer = make_optimizer(config, tree, 10)
    gradient = jax.tree.map(jnp.zeros_like, tree)
    updates, _ = optimizer.update(gradient, optimizer.init(tree), tree)
    np.testing.assert_allclose(updates["a"]["kernel"], -0.5)
    np.testing.assert_allclose(updates["a"]["bias"], 0)
