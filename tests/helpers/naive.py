"""The naive reference: the paper's equations as written, concatenate, run, cut.

Nothing of the fast path is used: full sequences with prompts as ordinary tokens, every
row through every part of every layer, captions of full length, pixels normalised first.
"""

import jax
import jax.numpy as jnp
import numpy as np

MEAN = np.array([0.48145466, 0.4578275, 0.40821073], np.float32)
DEVIATION = np.array([0.26862954, 0.26130258, 0.27577711], np.float32)


def layer_norm(x, weights, epsilon):
    mean = x.mean(-1, keepdims=True)
    variance = ((x - mean) ** 2).mean(-1, keepdims=True)
    x = (x - mean) / jnp.sqrt(variance + epsilon)
    return x * weights["scale"] + weights["bias"]


def activation(x, name):
    if name == "quick_gelu":
        return x / (1 + jnp.exp(-1.702 * x))
    return x * 0.5 * (1 + jax.lax.erf(x / np.sqrt(2)))


def adapted(x, weights):
    """What a bottleneck with its own weights adds."""
    hidden = jnp.maximum(x @ weights["down.weight"].T + weights["down.bias"], 0)
    return hidden @ weights["up.weight"].T + weights["up.bias"]


def layer(x, weights, size, mask=None, adapters=None):
    """One whole layer on `[B, S, D]`; mask `[S, S]` is added to the scores."""
    adapters = adapters or {}
    attention = weights["attention"]
    h = layer_norm(x, weights["ln_1"], size.epsilon)

    def project(name):
        part = attention[name]
        return jnp.einsum("bsd,dhe->bhse", h, part["kernel"]) + part["bias"][:, None]

    q, k, v = project("query"), project("key"), project("value")
    scores = jnp.einsum("bhse,bhte->bhst", q, k) / np.sqrt(size.width // size.heads)
    if mask is not None:
        scores = scores + mask
    mixed = jnp.einsum("bhst,bhte->bshe", jax.nn.softmax(scores, axis=-1), v)
    out = attention["out"]
    x = x + jnp.einsum("bshe,hed->bsd", mixed, out["kernel"]) + out["bias"]
    if "attention" in adapters:
        x = x + adapted(h, adapters["attention"])
    h = layer_norm(x, weights["ln_2"], size.epsilon)
    fc_1, fc_2 = weights["mlp"]["fc_1"], weights["mlp"]["fc_2"]
    wide = activation(h @ fc_1["kernel"] + fc_1["bias"], size.activation)
    x = x + wide @ fc_2["kernel"] + fc_2["bias"]
    return x + adapted(h, adapters["mlp"]) if "mlp" in adapters else x


def adapters_of(variables, tower, i):
    """The adapters of layer i by place; i counts from the first that has any."""
    found = {}
    flat = variables.get("prompts", {}).get(tower, {}).get("adapters", {})
    for name, value in flat.items():
        place, part = name.split(".", 1)
        if 0 <= i < len(value):
            found.setdefault(place, {})[part] = value[i]
    return found


def layer_weights(tower, i, layers):
    if i == layers - 1:
        return tower["last_layer"]
    return jax.tree.map(lambda x: x[i], tower["layers"])


def unit(x):
    return x / jnp.sqrt((x * x).sum(-1, keepdims=True))


def causal(length):
    return jnp.where(jnp.tril(jnp.ones((length, length))) > 0, 0.0, -jnp.inf)


def encode_texts(size, config, variables, ids):
    """Eq. 1-2 of the paper for the text tower, at the full context length."""
    tower, tower_size = variables["params"]["text"], size.text
    table = prompts_of(variables, "text").get("text_prompts")
    first, last = config.first_layer - 1, config.last_layer or tower_size.layers
    padding = size.context_length - ids.shape[1]
    full = jnp.pad(jnp.asarray(ids), ((0, 0), (0, padding)))
    x = jnp.take(tower["token_embedding"], full, axis=0) + tower["position_embedding"]
    for i in range(tower_size.layers):
        weights = layer_weights(tower, i, tower_size.layers)
        count = 0
        if table is not None and first <= i < last:
            count = table.shape[1]
            prompt = jnp.broadcast_to(table[i - first], (len(x), *table.shape[1:]))
            x = jnp.concatenate([prompt, x], axis=1)
        beside = adapters_of(variables, "text", i - first)
        mask = causal(x.shape[1])
        x = layer(x, weights, tower_size, mask, beside)[:, count:]
    end = (full == size.eos_id).argmax(-1)
    x = layer_norm(x, tower["ln_final"], tower_size.epsilon)[np.arange(len(x)), end]
    return unit(x @ tower["projection"])


def prompts_of(variables, tower):
    return variables.get("prompts", {}).get(tower, {}).get("prompts", {})


def sigmoid(x):
    return 1 / (1 + jnp.exp(-x))


def lstm(weights, x, suffix):
    """PyTorch's LSTM, a step at a time, on `[F, D]`."""
    width = weights[f"lstm.weight_hh_l0{suffix}"].shape[1]
    h = c = jnp.zeros(width)
    outputs = []
    for step in x if not suffix else x[::-1]:
        gates = (
            weights[f"lstm.weight_ih_l0{suffix}"] @ step
            + weights[f"lstm.bias_ih_l0{suffix}"]
            + weights[f"lstm.weight_hh_l0{suffix}"] @ h
            + weights[f"lstm.bias_hh_l0{suffix}"]
        )
        i, f, g, o = (gates[n * width : (n + 1) * width] for n in range(4))
        c = sigmoid(f) * c + sigmoid(i) * jnp.tanh(g)
        h = sigmoid(o) * jnp.tanh(c)
        outputs.append(h)
    return jnp.stack(outputs if not suffix else outputs[::-1])


def encoder_layer(weights, x, heads):
    """One pre-norm layer of PyTorch's TransformerEncoder on `[F, D]`, head by head."""

    def norm(x, name):
        parts = {"scale": weights[f"{name}.weight"], "bias": weights[f"{name}.bias"]}
        return layer_norm(x, parts, 1e-5)

    width = x.shape[-1]
    mixed = norm(x, "norm1") @ weights["self_attn.in_proj_weight"].T
    q, k, v = jnp.split(mixed + weights["self_attn.in_proj_bias"], 3, axis=-1)
    size, outputs = width // heads, []
    for n in range(heads):
        part = slice(n * size, (n + 1) * size)
        scores = jax.nn.softmax(q[:, part] @ k[:, part].T / np.sqrt(size), axis=-1)
        outputs.append(scores @ v[:, part])
    out = jnp.concatenate(outputs, -1) @ weights["self_attn.out_proj.weight"].T
    x = x + out + weights["self_attn.out_proj.bias"]
    h = norm(x, "norm2") @ weights["linear1.weight"].T + weights["linear1.bias"]
    h = activation(h, "gelu")
    return x + h @ weights["linear2.weight"].T + weights["linear2.bias"]


def context_tokens(weights, classes, count, cmm, heads):
    """FC(CMM(C)) for one video, `[F, D] -> [F, P, D]`."""
    if cmm == "transformer":
        said = classes + weights["transformer.positions"]
        for i in range(4):
            start = f"transformer.layers.{i}."
            own = {k[len(start) :]: v for k, v in weights.items() if start in k}
            said = encoder_layer(own, said, heads)
    else:
        ways = {"lstm": ("",), "bilstm": ("", "_reverse")}[cmm]
        said = jnp.concatenate([lstm(weights, classes, x) for x in ways], -1)
    flat = said @ weights["fc.weight"].T + weights["fc.bias"]
    return flat.reshape(len(classes), count, -1)


def encode_video(size, config, variables, frames):
    """Eq. 3-9 for one video `[F, H, W, 3]`."""
    tower, tower_size = variables["params"]["vision"], size.vision
    added = prompts_of(variables, "vision")
    layers = tower_size.layers
    split = layers if config.split_layer < 0 else config.split_layer
    first, last = config.first_layer - 1, config.last_layer or layers
    patch, count = size.patch_size, len(frames)
    pixels = (frames / np.float32(255) - MEAN) / DEVIATION
    x = jax.lax.conv_general_dilated(
        pixels,
        tower["patch_embedding"],
        (patch, patch),
        "VALID",
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
    )
    x = x.reshape(count, -1, tower_size.width)
    first_token = jnp.broadcast_to(tower["class_embedding"], (count, 1, x.shape[-1]))
    x = jnp.concatenate([first_token, x], axis=1) + tower["position_embedding"]

    def pre(x):
        return layer_norm(x, tower["ln_pre"], tower_size.epsilon)

    x = pre(x)
    length = x.shape[1]
    for i in range(layers):
        weights = layer_weights(tower, i, layers)
        beside = adapters_of(variables, "vision", i - first)
        enter = pre if i == 0 else (lambda x: x)
        prompts = []
        if i < split:
            if first <= i < last and "video_prompts" in added:
                row = enter(added["video_prompts"][i - first])
                prompts.append(jnp.broadcast_to(row, (count, *row.shape)))
            if first <= i < last and "position_prompts" in added:
                prompts.append(enter(added["position_prompts"][i - first]))
            if first <= i < last and "context" in added:
                made = context_tokens(
                    added["context"],
                    x[:, 0],
                    config.context_length,
                    config.cmm,
                    tower_size.heads,
                )
                if config.cmm_role == "prompts":
                    prompts.append(made)
                else:
                    updated = x[:, 0] + made[:, 0]
                    x = jnp.concatenate([updated[:, None], x[:, 1:]], axis=1)
            many = sum(p.shape[1] for p in prompts)
            whole = jnp.concatenate([x[:, :1], *prompts, x[:, 1:]], axis=1)
            whole = layer(whole, weights, tower_size, None, beside)
            x = jnp.concatenate([whole[:, :1], whole[:, 1 + many :]], axis=1)
            continue
        if i == split:
            x = x + added["frame_positions"][:, None]
        row = jnp.zeros((0, x.shape[-1]))
        if first <= i < last and "joint_prompts" in added:
            row = enter(added["joint_prompts"][i - max(first, split)])
        parts = [x[:, 0], row, *[frame[1:] for frame in x]]
        whole = jnp.concatenate(parts)[None]
        whole = layer(whole, weights, tower_size, None, beside)[0]
        rest = whole[count + len(row) :].reshape(count, length - 1, -1)
        x = jnp.concatenate([whole[:count, None], rest], axis=1)
    classes = layer_norm(x[:, 0], tower["ln_post"], tower_size.epsilon)
    return unit(classes @ tower["projection"]).mean(0)


def encode_videos(size, config, variables, frames):
    return jnp.stack([encode_video(size, config, variables, x) for x in frames])


def loss(size, config, variables, frames, ids):
    """Symmetric cross-entropy, written out; gives the features too."""
    videos = encode_videos(size, config, variables, frames)
    texts = encode_texts(size, config, variables, ids)
    logits = jnp.exp(variables["params"]["logit_scale"]) * texts @ videos.T
    rows = jax.nn.logsumexp(logits, 1) - jnp.diag(logits)
    columns = jax.nn.logsumexp(logits, 0) - jnp.diag(logits)
    return (rows.mean() + columns.mean()) / 2, (videos, texts)
