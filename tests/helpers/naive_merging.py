"""TempMe as it is written down: token by token, one list of what each place holds.

Which tokens are merged is decided in NumPy, outside of what is differentiated.
"""

import functools

import jax
import jax.numpy as jnp
import naive
import numpy as np


def merged(metric, sizes, classes, count, gaps):
    """The mean that makes each token of one group, `[T, S]`, and their sizes.

    gaps: a list that is told by how much each choice was made.
    """
    metric = metric / np.sqrt((metric * metric).sum(-1, keepdims=True))
    even = [i for i in range(classes, len(metric)) if i % 2 == 0]
    odd = [i for i in range(classes, len(metric)) if i % 2 == 1]
    best = []
    for i in even:
        products = sorted((-(metric[i] @ metric[j]), j) for j in odd)
        second = products[1][0] if len(products) > 1 else np.inf
        best.append((products[0][0], i, products[0][1], second))
    best.sort()
    # How much less alike the second choices are, of what and into what.
    gaps += [second - first for first, *_, second in best[:count]]
    if 0 < count < len(best):
        gaps.append(best[count][0] - best[count - 1][0])
    into = {i: j for _, i, j, _ in best[:count]}
    order = [*range(classes), *(i for i in even if i not in into), *odd]
    if not count:
        order = list(range(len(metric)))
    mean, after = np.zeros((len(order), len(metric)), np.float32), []
    for row, i in enumerate(order):
        members = [i, *(k for k, j in into.items() if j == i)]
        after.append(sum(sizes[k] for k in members))
        for k in members:
            mean[row, k] = sizes[k] / after[-1]
    return mean, np.array(after, np.float32)


def merge(x, sizes, metric, classes, count, gaps):
    """Groups `[G, S, D]` with `count` tokens less."""
    groups, length, _ = x.shape

    def choose(metric, sizes):
        each = [
            merged(m, s, classes, count, gaps)
            for m, s in zip(np.asarray(metric), np.asarray(sizes), strict=True)
        ]
        return tuple(np.stack(part) for part in zip(*each, strict=True))

    left = length - count
    shapes = (
        jax.ShapeDtypeStruct((groups, left, length), jnp.float32),
        jax.ShapeDtypeStruct((groups, left), jnp.float32),
    )
    metric, sizes = (jax.lax.stop_gradient(y) for y in (metric, sizes))
    means, after = jax.pure_callback(
        choose, shapes, metric, sizes, vmap_method="sequential"
    )
    return jnp.einsum("gts,gsd->gtd", means, x), after


def joined(x, factor, classes):
    """Class tokens of the frames that are joined, then their patches by frame."""
    frames, length = x.shape[:2]
    order = []
    for start in range(0, frames, factor):
        own = range(start, start + factor)
        order += [(f, i) for f in own for i in range(classes)]
        order += [(f, i) for f in own for i in range(classes, length)]
    rows = x[tuple(np.array(order).T)]
    return rows.reshape(frames // factor, factor * length, -1)


def keys_of(h, weights, changes):
    """The keys of rows `[G, S, D]`, as a mean over heads."""
    part = weights["attention"]["key"]
    kernel = part["kernel"]
    if changes:
        kernel = kernel + changes["key"].T.reshape(kernel.shape)
    keys = jnp.einsum("gsd,dhe->gshe", h, kernel) + part["bias"]
    return keys.mean(2)


def encode_video(size, config, variables, frames, gaps):
    """One video `[F, H, W, 3]`: the embedding, normalised again."""
    tower, tower_size = variables["params"]["vision"], size.vision
    layers, factors = tower_size.layers, []
    left = len(frames)
    for _ in range(config.merge_layers - 1):
        factors.append(2)
        left //= 2
    factors.append(left)
    tables = variables["prompts"]["vision"]["merge"]
    shared = naive.prompts_of(variables, "vision").get("video_prompts")
    x = naive.tokens_of(size, tower, frames)

    def pre(x):
        return naive.layer_norm(x, tower["ln_pre"], tower_size.epsilon)

    x = pre(x)
    sizes, classes = jnp.ones(x.shape[:2]), 1
    for i in range(layers):
        weights = naive.layer_weights(tower, i, layers)
        beside = naive.adapters_of(variables, "vision", i, config)
        changes = beside.get("changes")
        stage = i - (layers - 1 - len(factors))
        if 0 <= stage < len(factors):
            factor = factors[stage]
            metric = joined(x, factor, classes)
            x = joined(x + tables[f"positions.{stage}"][:, None], factor, classes)
            sizes = joined(sizes[..., None], factor, classes)[..., 0]
            classes *= factor
            length = x.shape[1]
            count = min(
                int(config.merge_share_before * length), (length - classes) // 2
            )
            x, sizes = merge(x, sizes, metric, classes, count, gaps)
        h = naive.layer_norm(x, weights["ln_1"], tower_size.epsilon)
        keys, bias = h, jnp.log(sizes)
        if shared is not None:
            prompts = shared[i] if i else pre(shared[0])
            prompts = naive.layer_norm(prompts, weights["ln_1"], tower_size.epsilon)
            prompts = jnp.broadcast_to(prompts, (len(h), *prompts.shape))
            keys = jnp.concatenate([h, prompts], axis=1)
            bias = jnp.pad(bias, ((0, 0), (0, prompts.shape[1])))
        x = x + naive.attended(
            *(h, keys, weights["attention"], tower_size.heads, tower_size.epsilon),
            *(bias[:, None, None], None, None, changes),
        )
        if "attention" in beside:
            x = x + naive.adapted(h, beside["attention"])
        length = x.shape[1]
        count = config.merged_per_layer
        if stage >= 0:
            count = int(config.merge_share_after * length)
        # That of the last layer reaches nothing.
        count = min(count, (length - classes) // 2)
        metric = keys_of(h, weights, changes)
        told = [] if i == layers - 1 else gaps
        x, sizes = merge(x, sizes, metric, classes, count, told)
        h = naive.layer_norm(x, weights["ln_2"], tower_size.epsilon)
        x = x + naive.mlp(h, weights["mlp"], tower_size)
        if "mlp" in beside:
            x = x + naive.adapted(h, beside["mlp"])
    (only,) = x
    rows = naive.layer_norm(only[:classes], tower["ln_post"], tower_size.epsilon)
    return naive.unit(naive.unit(naive.projected(rows, tower)).mean(0))


def loss(size, config, variables, frames, ids, gaps):
    """Symmetric cross-entropy, and the features."""
    encode = functools.partial(encode_video, size, config, variables, gaps=gaps)
    videos = jax.vmap(encode)(frames)
    texts = naive.encode_texts(size, config, variables, ids)
    return naive.cross_entropy(videos, texts, variables), (videos, texts)
