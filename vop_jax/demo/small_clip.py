"""The demo's tiny backbones: pre-training on captioned stills, and accuracy."""

import dataclasses
import functools
import queue
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import tokenizers
from jaxtyping import Array

from data_pipelines.console.terminal import progress
from data_pipelines.datasets.demo.captions import vocabulary
from data_pipelines.datasets.demo.drawing import draw
from data_pipelines.datasets.demo.stills import (
    ATTRIBUTES,
    describe,
    random_scene,
    sample_still_groups,
    scenes_drawing,
)
from data_pipelines.files.locks import exclusive
from data_pipelines.text.tokenizer import Tokenizer
from vop_jax.model.clip.sizes import ClipSize
from vop_jax.model.compute import ComputeConfig
from vop_jax.model.dual_encoder import DualEncoder
from vop_jax.optimization.losses import LOSSES
from vop_jax.weights.backbone import load_backbone, save_backbone
from vop_jax.weights.families import FAMILIES
from vop_jax.weights.special_tokens import write_tokenizer_class
from vop_jax.weights.tokenizer import load_tokenizer

GROUPS = 32
# The factor on similarities at the start, by the loss; SigLIP's of Zhai et al., 2023.
INITIAL_FACTOR = {"softmax": 1 / 0.07, "sigmoid": 10.0}
# CLIP's initial position embeddings are too small for a small model trained briefly.
POSITION_GAIN = 3.0
LARGEST_LOGIT_SCALE = 4.2
HEADS_END = 0.6


def write_tokenizer(folder: Path, size: ClipSize) -> None:
    """Writes the files of a word-level tokenizer of the demo's vocabulary.

    The control tokens have the names and ids of the backbone's family.
    """
    texts, words = FAMILIES[size.family].texts, vocabulary()
    control = {texts.special["eos_token"]: size.eos_id}
    if texts.starts:
        control[texts.special["bos_token"]] = size.eos_id - 1
    filling = [] if "pad_token" in texts.special else ["<pad>"]
    names = [*filling, "<unk>", *words]
    free = [i for i in range(size.vocabulary) if i not in control.values()]
    if len(names) > len(free):
        raise ValueError(f"{len(words)} words do not fit {size.vocabulary} ids")
    ids = control | dict(zip(names, free, strict=False))
    model = tokenizers.models.WordLevel(ids, unk_token="<unk>")
    tokenizer = tokenizers.Tokenizer(model)
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    # For transformers; this project adds the control tokens itself.
    start = [texts.special["bos_token"]] if texts.starts else []
    tokenizer.post_processor = tokenizers.processors.TemplateProcessing(
        single=[*start, "$A", texts.special["eos_token"]],
        special_tokens=list(control.items()),
    )
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(folder / "tokenizer.json"))
    write_tokenizer_class(folder, size)


def batches(tokenizer: Tokenizer, steps: int, seed: int) -> Iterator[dict[str, Any]]:
    """Generates the batches of a run in a background thread."""
    ready: queue.Queue = queue.Queue(maxsize=4)

    def produce():
        rng = np.random.default_rng(seed)
        for _ in range(steps):
            images, captions, attributes = sample_still_groups(rng, GROUPS)
            batch = {"frames": images[:, None], "ids": tokenizer(captions)}
            ready.put(batch | {f"attribute/{k}": v for k, v in attributes.items()})

    threading.Thread(target=produce, daemon=True).start()
    for _ in range(steps):
        yield ready.get()


def pretraining_loss(
    model: DualEncoder, weights: Any, batch: dict[str, Array], heads_weight: Array
) -> Array:
    """The backbone's loss without false negatives, plus the attribute heads'."""
    params = weights["params"]
    features: Any = model.apply({"params": params}, batch["frames"], batch["ids"])
    video, text, scale = features
    # Rows with the same caption are not negatives of each other.
    same = (batch["ids"][:, None] == batch["ids"][None]).all(-1)
    identity = jnp.argmax(same, axis=1)[:, None]
    kind = LOSSES[model.size.loss]
    held = params | {"logit_scale": jnp.minimum(scale, LARGEST_LOGIT_SCALE)}
    loss = kind.function(video, text, *(held[x] for x in kind.parameters), identity)
    for name in ATTRIBUTES:
        answer = batch[f"attribute/{name}"]
        asked = answer >= 0
        for features in (video, text):
            scores = features @ weights["heads"][name]
            wrong = optax.softmax_cross_entropy_with_integer_labels(
                scores, jnp.maximum(answer, 0)
            )
            mean = (wrong * asked).sum() / jnp.maximum(asked.sum(), 1)
            loss += heads_weight * mean / len(ATTRIBUTES)
    return loss


def initial_weights(model: DualEncoder, seed: int) -> dict[str, Any]:
    """The backbone's and the heads' weights."""
    key, size = jax.random.key(seed), model.size
    frames = jnp.zeros((1, 1, size.image_size, size.image_size, 3), jnp.uint8)
    ids = jnp.full((1, size.context_length), size.eos_id)
    params = jax.jit(model.init)(key, frames, ids)["params"]
    params["logit_scale"] = jnp.log(INITIAL_FACTOR[size.loss])
    for tower in ("vision", "text"):
        params[tower]["position_embedding"] *= POSITION_GAIN
    keys = jax.random.split(key, len(ATTRIBUTES))
    heads = {
        name: jax.random.normal(k, (size.embedding, count))
        for (name, count), k in zip(ATTRIBUTES.items(), keys, strict=True)
    }
    return {"params": params, "heads": heads}


def train(size: ClipSize, tokenizer: Tokenizer, steps: int, seed: int) -> Any:
    """Runs the pre-training and returns `params`."""
    model = DualEncoder(size, compute=ComputeConfig(scan=False))
    weights = initial_weights(model, seed)
    optimizer = optax.chain(
        optax.clip_by_global_norm(1.0),
        optax.adamw(
            optax.warmup_cosine_decay_schedule(0.0, 1.5e-3, 100, steps),
            b2=0.98,
            weight_decay=0.05,
            mask=lambda tree: jax.tree.map(lambda x: x.ndim > 1, tree),
        ),
    )
    moments = optimizer.init(weights)

    @functools.partial(jax.jit, donate_argnums=(0, 1))
    def step(weights, moments, batch, heads_weight):
        loss, gradient = jax.value_and_grad(
            lambda weights: pretraining_loss(model, weights, batch, heads_weight)
        )(weights)
        updates, moments = optimizer.update(gradient, moments, weights)
        return optax.apply_updates(weights, updates), moments, loss

    with progress("pre-training", total=steps, unit="steps") as bar:
        for i, batch in enumerate(batches(tokenizer, steps, seed)):
            heads = max(0.0, 1 - i / (HEADS_END * steps))
            weights, moments, loss = step(weights, moments, batch, heads)
            if i % 20 == 19:
                bar.advance(20, loss=f"{float(loss):.3f}")
    return weights["params"]


def train_and_save(folder: Path, size: ClipSize, steps: int, seed: int) -> None:
    """Pre-trains a backbone and writes its folder once it is trained, in float16.

    Raises:
        UserError: another process writes there, or nothing can be written.
    """
    with (
        exclusive(folder / ".lock", folder, advice="use another --output"),
        tempfile.TemporaryDirectory() as scratch,
    ):
        write_tokenizer(Path(scratch), size)
        tokenizer = load_tokenizer(Path(scratch), size)
        params = jax.device_get(train(size, tokenizer, steps, seed))
        scale = np.minimum(params["logit_scale"], LARGEST_LOGIT_SCALE)
        write_tokenizer(folder, size)
        save_backbone(folder, size, params | {"logit_scale": scale}, "F16")


def measure(folder: Path, seed: int = 1_000_000) -> dict[str, float]:
    """Zero-shot accuracy by text on new stills, percent."""
    backbone = load_backbone(folder)
    tokenizer = load_tokenizer(folder, backbone.size)
    model = DualEncoder(backbone.size, compute=ComputeConfig(scan=False))
    variables = {"params": backbone.params}
    embed_images = jax.jit(
        functools.partial(model.apply, variables, method="encode_videos")
    )
    embed_texts = jax.jit(
        functools.partial(model.apply, variables, method="encode_texts")
    )
    rng = np.random.default_rng(seed)

    def images_of(scenes):
        pixels = draw(scenes_drawing(rng, scenes), backbone.size.image_size)
        return np.asarray(embed_images(pixels[:, None]))

    def accuracy(kind: str, field: str, values: list[int], applies=None) -> float:
        """How often the caption with the correct value is the most similar one."""
        scenes = []
        while len(scenes) < 400:
            scene = random_scene(rng, kind)
            if getattr(scene, field) in values:
                scenes.append(scene)
        captions = [
            describe(
                np.random.default_rng(n),
                dataclasses.replace(scene, **{field: value}),
                complete=True,
            )[0]
            for n, scene in enumerate(scenes)
            for value in values
        ]
        texts = np.asarray(embed_texts(tokenizer(captions)))
        texts = texts.reshape(len(scenes), len(values), -1)
        nearest = np.einsum("nve,ne->nv", texts, images_of(scenes)).argmax(-1)
        right = [values.index(getattr(scene, field)) for scene in scenes]
        return 100 * float(np.mean(nearest == np.array(right)))

    results = {
        "left/right": accuracy("single", "cell", [3, 5]),
        "top/bottom": accuracy("single", "cell", [1, 7]),
        "colour": accuracy("single", "colour", list(range(6))),
        "size": accuracy("single", "size", [0, 1]),
        "cell": accuracy("single", "cell", list(range(9))),
        "shape": accuracy("single", "shape", list(range(5))),
        "direction": accuracy("arrow", "direction", list(range(4))),
    }
    scenes, captions = [], []
    while len(scenes) < 256:
        scene = random_scene(rng)
        caption, _ = describe(rng, scene, complete=True)
        if "background" in caption and scene not in scenes:
            scenes.append(scene)
            captions.append(caption)
    similarity = np.asarray(embed_texts(tokenizer(captions))) @ images_of(scenes).T
    first = (similarity.argmax(0) == np.arange(len(scenes))).mean()
    results["R@1 of 256"] = 100 * float(first)
    return results
