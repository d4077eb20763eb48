"""The naive reference of DGL: the paper's sequences, every row of them computed.

The text prompts are rows of the sequence in front of and behind the caption, and the
global prompts rows in front of all tokens of the video.
"""

import jax
import jax.numpy as jnp
import naive
import numpy as np


def linear(rows, weights, name):
    return rows @ weights[f"{name}.weight"].T + weights[f"{name}.bias"]


def made_of(size, config, variables, count):
    """Prompts of frames `[K, F, P, Dv]`, of words before and behind `[K, P, Dt]`."""
    shared = variables["prompts"]["shared"]
    width, length = size.vision.width, config.global_length
    rows = shared["latent"].reshape(len(shared["latent"]), -1, width).swapaxes(0, 1)
    if config.latent == "transformer":
        return transformed(rows, shared, size.vision.heads, length)
    shape = (len(rows), count, length, width)
    frames = jnp.broadcast_to(rows[:, None], shape)
    prefix = linear(rows, shared, "text_prefix")
    postfix = jnp.zeros_like(prefix)
    if "text_postfix.weight" in shared:
        postfix = linear(rows, shared, "text_postfix")
    return frames, prefix, postfix


def transformed(rows, shared, heads, length):
    """All rows of every layer through one layer of CLIP, head by head."""

    def norm(x, name):
        parts = {
            "scale": shared[f"{name}.weight"],
            "bias": shared[f"{name}.bias"],
        }
        return naive.layer_norm(x, parts, 1e-5)

    def gelu(x):
        return naive.activation(x, "quick_gelu")

    block, width = "dgl.block", rows.shape[-1] // heads
    h = norm(rows, f"{block}.layer_norm1")
    q, k, v = (linear(h, shared, f"{block}.self_attn.{x}_proj") for x in "qkv")
    mixed = []
    for n in range(heads):
        part = slice(n * width, (n + 1) * width)
        scores = q[..., part] @ k[..., part].swapaxes(1, 2) / np.sqrt(width)
        scores = jnp.exp(scores - scores.max(-1, keepdims=True))
        mixed.append(scores / scores.sum(-1, keepdims=True) @ v[..., part])
    mixed = jnp.concatenate(mixed, axis=-1)
    rows = rows + linear(mixed, shared, f"{block}.self_attn.out_proj")
    h = gelu(linear(norm(rows, f"{block}.layer_norm2"), shared, f"{block}.mlp.fc1"))
    rows = rows + linear(h, shared, f"{block}.mlp.fc2")
    words = gelu(linear(rows[:, : 2 * length], shared, "dgl.text_mlp.fc1"))
    words = linear(words, shared, "dgl.text_mlp.fc2")
    frames = rows[:, 2 * length :].reshape(len(rows), -1, length, rows.shape[-1])
    return frames, words[:, :length], words[:, length:]


def encode_texts(size, config, variables, ids):
    """[SOT, prefix, words and padding, postfix]; read as far behind EOT as P."""
    tower, tower_size = variables["params"]["text"], size.text
    _, prefix, postfix = made_of(size, config, variables, config.num_frames)
    length = config.global_length
    full = jnp.pad(jnp.asarray(ids), ((0, 0), (0, size.context_length - ids.shape[1])))
    x = jnp.take(tower["token_embedding"], full, axis=0) + tower["position_embedding"]
    for i in range(tower_size.layers):
        before, behind = (
            jnp.broadcast_to(table[i], (len(x), *table.shape[1:]))
            for table in (prefix, postfix)
        )
        if i:
            # The outputs of the last layer's prompts are replaced.
            x = jnp.concatenate([x[:, :1], x[:, 1 + length : -length]], axis=1)
        x = jnp.concatenate([x[:, :1], before, x[:, 1:], behind], axis=1)
        weights = naive.layer_weights(tower, i, tower_size.layers)
        beside = naive.adapters_of(variables, "text", i, config)
        x = naive.layer(x, weights, tower_size, naive.causal(x.shape[1]), beside)
    x = naive.layer_norm(x, tower["ln_final"], tower_size.epsilon)
    x = x[np.arange(len(x)), (full == size.eos_id).argmax(-1) + length]
    return naive.unit(naive.projected(x, tower))


def encode_video(size, config, variables, frames):
    """One video `[F, H, W, 3]`; the read row is the first global prompt's."""
    tower, tower_size = variables["params"]["vision"], size.vision
    count, length = len(frames), config.global_length
    prompts, _, _ = made_of(size, config, variables, count)
    x = naive.tokens_of(size, tower, frames)
    if "ln_pre" in tower:
        x = naive.layer_norm(x, tower["ln_pre"], tower_size.epsilon)
    g = variables["prompts"]["shared"]["global_prompts"]
    nowhere = [None] * length
    places = [None, *nowhere, *naive.places_of(size)]
    for i in range(tower_size.layers):
        weights = naive.layer_weights(tower, i, tower_size.layers)
        beside = naive.adapters_of(variables, "vision", i, config)
        x = jnp.concatenate([x[:, :1], prompts[i], x[:, 1:]], axis=1)
        h, normed = (
            naive.layer_norm(rows, weights["ln_1"], tower_size.epsilon)
            for rows in (x, g)
        )

        def attended(rows, keys, own, theirs, weights=weights, beside=beside):
            return naive.attended(
                *(rows, keys, weights["attention"], tower_size.heads),
                *(tower_size.epsilon, None, own, tower_size.rotary),
                *(beside.get("changes"), theirs),
            )

        each = jnp.broadcast_to(normed, (count, *normed.shape))
        of_frames = attended(
            h, jnp.concatenate([each, h], axis=1), places, nowhere + places
        )
        everything = jnp.concatenate([normed, *h])[None]
        of_global = attended(
            normed[None], everything, nowhere, nowhere + places * count
        )[0]
        after = []
        for rows, of_rows, onward in ((x, of_frames, h), (g, of_global, normed)):
            rows = rows + of_rows
            if "attention" in beside:
                rows = rows + naive.adapted(onward, beside["attention"])
            onward = naive.layer_norm(rows, weights["ln_2"], tower_size.epsilon)
            rows = rows + naive.mlp(onward, weights["mlp"], tower_size)
            if "mlp" in beside:
                rows = rows + naive.adapted(onward, beside["mlp"])
            after.append(rows)
        x, g = after
        x = jnp.concatenate([x[:, :1], x[:, 1 + length :]], axis=1)
    row = naive.layer_norm(g[0], tower["ln_post"], tower_size.epsilon)
    return naive.unit(naive.projected(row, tower))


def loss(size, config, variables, frames, ids):
    """The loss, and the features that it is of."""
    videos = jax.vmap(lambda x: encode_video(size, config, variables, x))(frames)
    texts = encode_texts(size, config, variables, ids)
    return naive.cross_entropy(videos, texts, variables), (videos, texts)
