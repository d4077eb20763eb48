"""Models with random tuned parameters, to be saved and loaded again."""

import shutil

import numpy as np

import vop_jax
from vop_jax.model.methods import find_method
from vop_jax.model.shapes import added_shapes
from vop_jax.model.tree_paths import paths
from vop_jax.weights.backbone import load_backbone
from vop_jax.weights.locate import BACKBONE
from vop_jax.weights.tuned import save_tuned
from vop_jax.weights.tuned_metadata import metadata_of

FRAMES = 3


def tuned_file(path, method="vop", backbone=BACKBONE, changed=(), seed=0):
    """A file of random tuned parameters.

    Args:
        path: of the file.
        method: a row of the table that adds something.
        backbone: its folder.
        changed: paths of weights of the backbone that were tuned as well.
        seed: of the numbers.
    """
    rng, held = np.random.default_rng(seed), load_backbone(backbone)
    layers = held.size.vision.layers
    config = find_method(method).prompt_config(layers, FRAMES)
    shapes = added_shapes(held.size, config)
    leaves = {k: rng.normal(0, 0.3, x).astype(np.float32) for k, x in shapes.items()}
    for name in changed:
        value = held.params
        for key in name.split("/"):
            value = value[key]
        drawn = rng.normal(0, 0.1, np.shape(value)).astype(np.float32)
        leaves[f"params/{name}"] = value + drawn
    save_tuned(
        path, leaves, held.size, metadata_of(method, config, layers, held.sha256)
    )
    return path


def tuned_model(path, **options):
    """A model of the demo's backbone; arguments as of `tuned_file`."""
    folder = options.get("backbone", BACKBONE)
    return vop_jax.load(folder, tuned=tuned_file(path, **options))


def files_of(folder):
    """The files of a folder, by name."""
    return {x.name: x.read_bytes() for x in folder.iterdir() if x.is_file()}


def copy_of_backbone(path):
    """The demo's backbone as a folder of somebody's."""
    shutil.copytree(BACKBONE, path)
    return path


def features(model):
    """What a model makes of a few videos and texts."""
    size = model.backbone.size.image_size
    rng = np.random.default_rng(1)
    frames = rng.integers(0, 256, (2, FRAMES, size, size, 3), np.uint8)
    texts = ["a red circle", "the green square moves to the left"]
    return model.encode_videos(frames), model.encode_texts(texts)


def same_arrays(ours, theirs):
    """Whether two models hold the same arrays, to the last bit."""
    first, second = (paths(model.variables) for model in (ours, theirs))
    return first.keys() == second.keys() and all(
        np.array_equal(value, second[name]) for name, value in first.items()
    )


def alike(ours, theirs):
    """Whether two models are one: the same code on the same arrays."""
    told = [(model.encoder, model.fingerprint) for model in (ours, theirs)]
    return told[0] == told[1] and same_arrays(ours, theirs)


def same(ours, theirs):
    """Whether features are equal to the last bit."""
    return all(np.array_equal(a, b) for a, b in zip(ours, theirs, strict=True))
