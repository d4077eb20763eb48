"""MV-Adapter as its mathematics is written: video by video, caption by caption.

A caption has no padding here: it is as long as it is. Attention is a loop over heads.
"""

import jax
import jax.numpy as jnp
import naive
import naive_fusion
import numpy as np

HEADS = 2


def quick(x):
    return x / (1 + jnp.exp(-1.702 * x))


def linear(x, weights, name):
    return x @ weights[f"{name}.weight"].T + weights.get(f"{name}.bias", 0)


def norm(x, weights, name):
    parts = {"scale": weights[f"{name}.weight"], "bias": weights[f"{name}.bias"]}
    return naive.layer_norm(x, parts, 1e-5)


def block(x, weights, mask=0.0):
    """The layer in the bottleneck, on rows `[R, W]`, with QuickGELU behind it."""
    h = norm(x, weights, "block.layer_norm1")
    q, k, v = (linear(h, weights, f"block.self_attn.{part}_proj") for part in "qkv")
    size, heads = x.shape[-1] // HEADS, []
    for n in range(HEADS):
        part = slice(n * size, (n + 1) * size)
        scores = q[:, part] @ k[:, part].T / np.sqrt(size) + mask
        heads.append(jax.nn.softmax(scores, axis=-1) @ v[:, part])
    x = x + linear(jnp.concatenate(heads, -1), weights, "block.self_attn.out_proj")
    h = norm(x, weights, "block.layer_norm2")
    h = quick(linear(h, weights, "block.mlp.fc1"))
    return quick(x + linear(h, weights, "block.mlp.fc2"))


def of_layer(variables, tower, i, layers):
    """Layer i's weights, the tie of the two last ones in the down-projection."""
    flat = variables["prompts"][tower]["adapters"]
    start = "after_mlp."
    weights = {k[len(start) :]: x[i] for k, x in flat.items() if k.startswith(start)}
    at = i - (layers - 2)
    if at >= 0:
        shared = variables["prompts"]["tie"]["adapters.shared"][at]
        factor = flat["tie.weight"][at] @ shared + flat["tie.bias"][at]
        weights["down.weight"] = jnp.diag(factor) @ weights["down.weight"]
    return weights


def frames_adapter(m, weights):
    """What is added to the MLP's output `[F, 1 + M, D]` of a video."""
    down = quick(linear(m, weights, "down"))
    classes = [frame[0] for frame in down]
    means = [frame[1:].mean(0) for frame in down]
    sequence = jnp.stack([weights["token"], *classes, *means])
    sequence = norm(sequence + weights["positions"], weights, "ln_pre")
    seen, count = block(sequence, weights), len(m)
    about = linear(seen[0], weights, "calibration.g")
    results = []
    for f, frame in enumerate(down):
        own, mean = seen[1 + f], seen[1 + count + f]
        told = jnp.concatenate([own + mean, about])
        hidden = jnp.maximum(linear(told, weights, "calibration.a"), 0)
        alpha = 1 + linear(hidden, weights, "calibration.b")
        rows = jnp.concatenate([(alpha * own)[None], frame[1:]])
        results.append(0.1 * linear(rows, weights, "up"))
    return jnp.stack(results)


def words_adapter(m, weights):
    """What is added to the MLP's output `[N, D]` of a caption."""
    down = linear(m, weights, "down") + weights["positions"][: len(m)]
    down = norm(down, weights, "ln_pre")
    return 0.1 * linear(block(down, weights, naive.causal(len(m))), weights, "up")


def layer(x, weights, size, mask, adapter, beside, prompts=()):
    """One layer on `[S, D]` units of a list, and what looks at all of them."""
    count = sum(map(len, prompts))
    found = []
    for unit in x:
        unit = jnp.concatenate([*prompts, unit])
        h = naive.layer_norm(unit, weights["ln_1"], size.epsilon)
        unit = (
            unit
            + naive.attended(
                *(h[None], h[None], weights["attention"], size.heads, size.epsilon),
                *(mask, None, None, beside.get("changes")),
            )[0]
        )
        h = naive.layer_norm(unit, weights["ln_2"], size.epsilon)
        found.append((unit[count:], naive.mlp(h, weights["mlp"], size)[count:]))
    added = adapter(jnp.stack([m for _, m in found]))
    return [y + m + more for (y, m), more in zip(found, added, strict=True)]


def encode_video(size, config, variables, frames):
    """The mean of one video's frames, normalised again."""
    tower, tower_size = variables["params"]["vision"], size.vision
    table = naive.prompts_of(variables, "vision").get("video_prompts")

    def pre(x):
        return naive.layer_norm(x, tower["ln_pre"], tower_size.epsilon)

    units = [pre(naive_fusion.embed(size, tower, frame)) for frame in frames]
    for i in range(tower_size.layers):
        own = of_layer(variables, "vision", i, tower_size.layers)
        prompts = []
        if table is not None:
            prompts = [pre(table[i]) if i == 0 else table[i]]
        units = layer(
            units,
            naive.layer_weights(tower, i, tower_size.layers),
            tower_size,
            None,
            lambda m, own=own: frames_adapter(m, own),
            naive.adapters_of(variables, "vision", i, config),
            prompts,
        )
    classes = jnp.stack([x[0] for x in units])
    classes = naive.layer_norm(classes, tower["ln_post"], tower_size.epsilon)
    return naive.unit(naive.unit(naive.projected(classes, tower)).mean(0))


def encode_caption(size, config, variables, ids):
    """One caption, up to its EOT."""
    tower, tower_size = variables["params"]["text"], size.text
    table = naive.prompts_of(variables, "text").get("text_prompts")
    length = list(ids).index(size.eos_id) + 1
    x = tower["token_embedding"][ids[:length]] + tower["position_embedding"][:length]
    for i in range(tower_size.layers):
        own = of_layer(variables, "text", i, tower_size.layers)
        prompts = [] if table is None else [table[i]]
        (x,) = layer(
            [x],
            naive.layer_weights(tower, i, tower_size.layers),
            tower_size,
            naive.causal(length + sum(map(len, prompts))),
            lambda m, own=own: words_adapter(m[0], own)[None],
            naive.adapters_of(variables, "text", i, config),
            prompts,
        )
    x = naive.layer_norm(x[-1], tower["ln_final"], tower_size.epsilon)
    return naive.unit(naive.projected(x, tower))


def loss(size, config, variables, frames, ids):
    """Symmetric cross-entropy of a batch; and the features."""
    videos = jax.vmap(lambda x: encode_video(size, config, variables, x))(frames)
    texts = jnp.stack([encode_caption(size, config, variables, x) for x in ids])
    logits = jnp.exp(variables["params"]["logit_scale"]) * texts @ videos.T
    return naive_fusion.cross_entropy(logits), (videos, texts)
