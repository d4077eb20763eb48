"""IVFusion as DiscoVLA writes it, frame by frame and caption by caption, no padding.

A tower's input is a list of units (the frames of a video, or the captions of its
frames), each `[S, D]` of its own length, with one row that stands for it: the class
token, or EOT.
"""

import jax
import jax.numpy as jnp
import naive
import numpy as np


def bottleneck(y, weights):
    hidden = weights["down.weight"] @ y + weights["down.bias"]
    hidden = hidden / (1 + jnp.exp(-1.702 * hidden))
    return weights["up.weight"] @ hidden + weights["up.bias"]


def fused_layer(units, standing, weights, size, beside, added, causal=False):
    """One layer in which the standing row of each unit attends to all units' rows."""
    normed = [naive.layer_norm(x, weights["ln_1"], size.epsilon) for x in units]
    everyone = jnp.concatenate(normed)[None]
    changes = beside.get("changes")

    def attended(rows, keys, mask=None):
        return naive.attended(
            *(rows, keys, weights["attention"], size.heads, size.epsilon),
            *(mask, None, None, changes),
        )[0]

    results = []
    for x, h, row in zip(units, normed, standing, strict=True):
        mask = naive.causal(len(h)) if causal else None
        within = attended(h[None], h[None], mask)
        joint = attended(h[None, row : row + 1], everyone)[0]
        y = within.at[row].set(joint + bottleneck(within[row], added))
        if "attention" in beside:
            y = y + naive.adapted(h, beside["attention"])
        x = x + y
        h = naive.layer_norm(x, weights["ln_2"], size.epsilon)
        x = x + naive.mlp(h, weights["mlp"], size)
        results.append(x + naive.adapted(h, beside["mlp"]) if "mlp" in beside else x)
    return results


def fused_weights(variables, tower, i, layers):
    """The bottleneck of layer i; None if nothing attends across there."""
    flat = variables["prompts"].get(tower, {}).get("fusion")
    if flat is None:
        return None
    count = len(flat["down.bias"])
    at = i - (layers - count)
    return None if at < 0 else {name: value[at] for name, value in flat.items()}


def embed(size, tower, frame):
    """The rows of one frame before layer 1, of a CLIP."""
    patch, side = size.patch_size, size.image_size // size.patch_size
    mean, deviation = (
        np.array(x, np.float32) for x in (size.frames.mean, size.frames.deviation)
    )
    pixels = (frame / np.float32(255) - mean) / deviation
    squares = pixels.reshape(side, patch, side, patch, 3)
    rows = jnp.einsum("ihjwc,hwcd->ijd", squares, tower["patch_embedding"])
    rows = rows.reshape(side * side, -1) + tower.get("patch_bias", 0)
    rows = jnp.concatenate([tower["class_embedding"][None], rows])
    return rows + tower["position_embedding"]


def encode_video(size, config, variables, frames):
    """One video `[F, H, W, 3]`, with shared and position prompts if it has them."""
    tower, tower_size = variables["params"]["vision"], size.vision
    first, last = config.first_layer - 1, config.last_layer or tower_size.layers
    tables = naive.prompts_of(variables, "vision")

    def pre(x):
        return naive.layer_norm(x, tower["ln_pre"], tower_size.epsilon)

    units = [pre(embed(size, tower, frame)) for frame in frames]
    for i in range(tower_size.layers):
        weights = naive.layer_weights(tower, i, tower_size.layers)
        beside = naive.adapters_of(variables, "vision", i - first, config)
        count = 0
        if first <= i < last and tables:
            enter = pre if i == 0 else (lambda x: x)
            own = [[] for _ in units]
            for f, found in enumerate(own):
                if "video_prompts" in tables:
                    found.append(enter(tables["video_prompts"][i - first]))
                if "position_prompts" in tables:
                    found.append(enter(tables["position_prompts"][i - first][f]))
            units = [
                jnp.concatenate([x[:1], *found, x[1:]])
                for x, found in zip(units, own, strict=True)
            ]
            count = sum(len(x) for x in own[0])
        added = fused_weights(variables, "vision", i, tower_size.layers)
        if added is None:
            units = [
                naive.layer(x[None], weights, tower_size, None, beside)[0]
                for x in units
            ]
        else:
            standing = [0] * len(units)
            units = fused_layer(units, standing, weights, tower_size, beside, added)
        units = [jnp.concatenate([x[:1], x[1 + count :]]) for x in units]
    classes = jnp.stack([x[0] for x in units])
    classes = naive.layer_norm(classes, tower["ln_post"], tower_size.epsilon)
    return naive.unit(naive.projected(classes, tower))


def encode_captions(size, config, variables, ids):
    """The captions `[F, N]` of one video's frames, each as long as it is."""
    tower, tower_size = variables["params"]["text"], size.text
    first, last = config.first_layer - 1, config.last_layer or tower_size.layers
    table = naive.prompts_of(variables, "text").get("text_prompts")
    lengths = [list(row).index(size.eos_id) + 1 for row in ids]
    units = [
        tower["token_embedding"][row[:length]] + tower["position_embedding"][:length]
        for row, length in zip(ids, lengths, strict=True)
    ]
    for i in range(tower_size.layers):
        weights = naive.layer_weights(tower, i, tower_size.layers)
        beside = naive.adapters_of(variables, "text", i - first, config)
        count = 0
        if table is not None and first <= i < last:
            count = table.shape[1]
            units = [jnp.concatenate([table[i - first], x]) for x in units]
        added = fused_weights(variables, "text", i, tower_size.layers)
        if added is None:
            units = [
                naive.layer(x[None], weights, tower_size, naive.causal(len(x)), beside)[
                    0
                ]
                for x in units
            ]
        else:
            ends = [len(x) - 1 for x in units]
            units = fused_layer(
                units, ends, weights, tower_size, beside, added, causal=True
            )
        units = [x[count:] for x in units]
    ends = jnp.stack([x[-1] for x in units])
    ends = naive.layer_norm(ends, tower["ln_final"], tower_size.epsilon)
    return naive.unit(naive.projected(ends, tower))


def soft_nearest(products, scale):
    """Each row's nearest, averaged by the softmax of scale times themselves."""
    nearest = products.max(1)
    weights = jnp.exp(scale * (nearest - nearest.max()))
    return (weights / weights.sum() * nearest).sum()


def cross_entropy(logits):
    rows = jax.nn.logsumexp(logits, 1) - jnp.diag(logits)
    columns = jax.nn.logsumexp(logits, 0) - jnp.diag(logits)
    return (rows.mean() + columns.mean()) / 2


def divergence(teacher, student, axis):
    """As the released code has it: 100 times the sum over the number of entries."""
    p = jax.nn.softmax(teacher, axis)
    q = jax.nn.softmax(student, axis)
    return 100 * (p * (jnp.log(p) - jnp.log(q))).sum() / p.size


def aligned_terms(videos, texts, frames, captions, scale, detach=False):
    """L_v, L_i and L_d, a pair of videos at a time."""
    by_frames = []
    for caption in captions:
        for frame in frames:
            products = caption @ frame.T
            ways = [soft_nearest(x, scale) for x in (products, products.T)]
            by_frames.append((ways[0] + ways[1]) / 2)
    image = scale * jnp.stack(by_frames).reshape(len(captions), len(frames))
    video = scale * texts @ videos.T
    teacher = jax.lax.stop_gradient(image) if detach else image
    ways = [divergence(teacher, video, axis) for axis in (0, 1)]
    return cross_entropy(video), cross_entropy(image), (ways[0] + ways[1]) / 2


def alignment_loss(size, config, variables, frames, ids, frame_ids, detach=False):
    """The whole loss of DiscoVLA, and the four kinds of features."""
    of_frames = [encode_video(size, config, variables, x) for x in frames]
    captions = [encode_captions(size, config, variables, x) for x in frame_ids]
    videos = naive.unit(jnp.stack([x.mean(0) for x in of_frames]))
    texts = naive.encode_texts(size, config, variables, ids)
    scale = jnp.exp(variables["params"]["logit_scale"])
    terms = aligned_terms(videos, texts, of_frames, captions, scale, detach)
    features = (videos, texts, jnp.stack(of_frames), jnp.stack(captions))
    return terms[0] + 0.3 * terms[1] + 1.0 * terms[2], features


def loss(size, config, variables, frames, ids):
    """Symmetric cross-entropy over the means, normalised again; and the features."""
    videos = jax.vmap(lambda x: encode_video(size, config, variables, x))(frames)
    videos = naive.unit(videos.mean(1))
    texts = naive.encode_texts(size, config, variables, ids)
    logits = jnp.exp(variables["params"]["logit_scale"]) * texts @ videos.T
    return cross_entropy(logits), (videos, texts)
