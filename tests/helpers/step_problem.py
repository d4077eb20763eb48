"""A small train step: sizes, prompts, variables, a batch."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

from vop_jax.devices.config import MeshConfig
from vop_jax.devices.mesh import make_mesh, put_batch, put_tree
from vop_jax.model.clip.sizes import ClipSize, TextSize, VisionSize
from vop_jax.model.dual_encoder import DualEncoder
from vop_jax.model.methods import METHODS
from vop_jax.model.prompts.config import PromptConfig
from vop_jax.model.shapes import abstract_variables
from vop_jax.model.trained import select, trained_mask
from vop_jax.optimization.train_step import make_loss_and_gradient, merge

SIZE = ClipSize(
    vision=VisionSize(32, 3, 2, 64),
    text=TextSize(32, 2, 2, 64),
    image_size=16,
    patch_size=8,
    vocabulary=40,
    context_length=12,
    embedding=24,
    eos_id=39,
)


PROMPTS = {
    "vop": PromptConfig(text_length=2, video_length=2, num_frames=3),
    "vop_fc": PromptConfig(
        text_length=2,
        video_length=2,
        context_length=2,
        joint_length=2,
        split_layer=2,
        num_frames=3,
    ),
    "full": PromptConfig(num_frames=3),
    "dgl_linear": PromptConfig(global_length=2, num_frames=3),
    # Three frames are joined at once.
    "tempme": PromptConfig(lora_rank=2, merge_layers=1, num_frames=3),
    "dgl_transformer": PromptConfig(
        global_length=2, latent="transformer", num_frames=3
    ),
}


ONE = MeshConfig(data=1)


# The same sizes with SigLIP's parts.
SIGLIP = dataclasses.replace(
    SIZE,
    vision=dataclasses.replace(
        SIZE.vision,
        activation="gelu_tanh",
        projection="none",
        class_token=False,
        patch_bias=True,
        pre_norm=False,
        pooling_heads=2,
    ),
    text=dataclasses.replace(
        SIZE.text, projection="biased", causal=False, reads="last"
    ),
    embedding=32,
    context_length=6,
    loss="sigmoid",
)


def problem(method, batch=8, size=SIZE):
    rng = np.random.default_rng(0)

    def draw(path, leaf):
        # Norms that pass something on, and a scale at which the loss is not flat.
        middle = {"scale": 1.0, "logit_scale": 3.0, "logit_bias": -2.0}.get(
            path[-1].key, 0.0
        )
        return jnp.asarray(middle + rng.normal(0, 0.2, leaf.shape), jnp.float32)

    variables = jax.tree_util.tree_map_with_path(
        draw, abstract_variables(size, PROMPTS[method])
    )
    words = rng.integers(1, 38, (batch, 5))
    ids = np.concatenate([words, np.full((batch, 1), size.eos_id)], axis=1)
    frames = rng.integers(0, 256, (batch, 3, 16, 16, 3), np.uint8)
    return variables, {"frames": frames, "text_ids": ids.astype(np.int32)}


def halves(variables):
    """The trained and the frozen part, by the rules of `vop`."""
    mask = trained_mask(variables, METHODS["vop"].trained)
    return [select(variables, mask, trained=x) for x in (True, False)]


def feature_gradients(variables, batch, size=SIZE):
    """The features of `vop`, and what pulls their gradients back to the prompts."""
    trainable, frozen = halves(variables)
    model = DualEncoder(size, PROMPTS["vop"])

    def encode(trainable):
        out = model.apply(merge(trainable, frozen), batch["frames"], batch["text_ids"])
        return out[:2]

    return jax.vjp(jax.jit(encode), trainable)


def lower(variables, batch, layout, size=SIZE, **options):
    """The step's gradient on a mesh of fake devices, not yet compiled; its inputs."""
    mesh = make_mesh(layout, jax.devices()[: layout.data * layout.fsdp])
    trees = [put_tree(mesh, tree) for tree in halves(variables)]
    model = DualEncoder(size, PROMPTS["vop"])
    function = jax.jit(make_loss_and_gradient(model, mesh, **options))
    arguments = (*trees, put_batch(mesh, batch))
    return function.lower(*arguments), arguments


def assert_close(gradient, wanted):
    """Every leaf to 1e-5 of the whole gradient's norm."""
    whole = np.sqrt(sum((x**2).sum() for x in jax.tree.leaves(wanted)))
    pairs = zip(jax.tree.leaves(gradient), jax.tree.leaves(wanted), strict=True)
    for ours, theirs in pairs:
        assert np.linalg.norm(ours - theirs) <= 1e-5 * whole
