"""The naive reference: the paper's equations as written, concatenate, run, cut.

Nothing of the fast path is used: full sequences with prompts as ordinary tokens, every
row through every part of every layer, captions of full length, pixels normalised first.
"""

import jax
import jax.numpy as jnp
import numpy as np


def layer_norm(x, weights, epsilon):
    mean = x.mean(-1, keepdims=True)
    variance = ((x - mean) ** 2).mean(-1, keepdims=True)
    x = (x - mean) / jnp.sqrt(variance + epsilon)
    return x * weights["scale"] + weights["bias"]


def activation(x, name):
    cube = x + 0.044715 * x * x * x
    return {
        "quick_gelu": x / (1 + jnp.exp(-1.702 * x)),
        "gelu": x * 0.5 * (1 + jax.lax.erf(x / np.sqrt(2))),
        "gelu_tanh": x * 0.5 * (1 + jnp.tanh(np.sqrt(2 / np.pi) * cube)),
        "silu": x / (1 + jnp.exp(-x)),
    }[name]


def adapted(x, weights):
    """What a bottleneck with its own weights adds."""
    hidden = jnp.maximum(x @ weights["down.weight"].T + weights["down.bias"], 0)
    return hidden @ weights["up.weight"].T + weights["up.bias"]


def linear(x, weights):
    return x @ weights["kernel"] + weights["bias"]


def attended(
    x,
    h,
    weights,
    heads,
    epsilon,
    mask=None,
    places=None,
    rotary=None,
    changes=None,
    key_places=None,
):
    """The attention of rows x over rows h, both `[B, S, D]`.

    places: of each row, (row, column) or None for a row that is not turned.
    key_places: the same of h, if that differs.
    changes: projection -> a matrix `[out, in]` that is added to its weights.
    """
    width = x.shape[-1] // heads

    def project(name, rows):
        part = weights[name]
        kernel = part["kernel"]
        if changes and name in changes:
            kernel = kernel + changes[name].T.reshape(kernel.shape)
        rows = jnp.einsum("bsd,dhe->bhse", rows, kernel)
        return rows + part["bias"][:, None] if "bias" in part else rows

    q, k, v = project("query", x), project("key", h), project("value", h)
    if rotary is not None:
        q = turned(q, places, rotary)
        k = turned(k, key_places or places, rotary)
    scores = jnp.einsum("bhse,bhte->bhst", q, k) / np.sqrt(width)
    if mask is not None:
        scores = scores + mask
    mixed = jnp.einsum("bhst,bhte->bshe", jax.nn.softmax(scores, axis=-1), v)
    if "ln" in weights:
        flat = mixed.reshape(*mixed.shape[:2], -1)
        mixed = layer_norm(flat, weights["ln"], epsilon).reshape(mixed.shape)
    out = weights["out"]
    return jnp.einsum("bshe,hed->bsd", mixed, out["kernel"]) + out["bias"]


def turned(x, places, rotary):
    """Each pair of channels as a complex number, times a unit one."""
    width = x.shape[-1]
    bands = 1 / rotary.temperature ** (np.arange(width // 4) / (width // 4))
    angles = np.zeros((len(places), width // 2))
    for row, place in zip(angles, places, strict=True):
        if place is not None:
            first, second = place if rotary.order == "ij" else place[::-1]
            row[:] = np.concatenate([first * bands, second * bands])
    pairs = x.reshape(*x.shape[:-1], width // 2, 2)
    number = jax.lax.complex(pairs[..., 0], pairs[..., 1])
    number = number * np.exp(1j * angles).astype(np.complex64)
    return jnp.stack([number.real, number.imag], axis=-1).reshape(x.shape)


def mlp(h, weights, size):
    if "gate" not in weights:
        wide = activation(linear(h, weights["fc_1"]), size.activation)
        return linear(wide, weights["fc_2"])
    wide = activation(linear(h, weights["gate"]), size.activation)
    wide = layer_norm(wide * linear(h, weights["up"]), weights["ln"], size.epsilon)
    return linear(wide, weights["fc_2"])


def layer(x, weights, size, mask=None, adapters=None, places=None):
    """One whole layer on `[B, S, D]`; mask `[S, S]` is added to the scores."""
    adapters = adapters or {}
    h = layer_norm(x, weights["ln_1"], size.epsilon)
    rotary = getattr(size, "rotary", None)
    x = x + attended(
        *(h, h, weights["attention"], size.heads, size.epsilon),
        *(mask, places, rotary, adapters.get("changes")),
    )
    if "attention" in adapters:
        x = x + adapted(h, adapters["attention"])
    h = layer_norm(x, weights["ln_2"], size.epsilon)
    x = x + mlp(h, weights["mlp"], size)
    return x + adapted(h, adapters["mlp"]) if "mlp" in adapters else x


def pooled(x, weights, size):
    """The probe's attention over rows `[B, S, D]`, and the MLP behind it."""
    probe = jnp.broadcast_to(weights["probe"], (len(x), 1, x.shape[-1]))
    x = attended(probe, x, weights["attention"], size.pooling_heads, size.epsilon)
    h = layer_norm(x, weights["ln"], size.epsilon)
    return (x + mlp(h, weights["mlp"], size))[:, 0]


def projected(x, tower):
    if "projection" in tower:
        x = x @ tower["projection"]
    return x + tower["projection_bias"] if "projection_bias" in tower else x


def adapters_of(variables, tower, i, config):
    """The adapters of layer i by place; i counts from the first that has any.

    LoRA's, under `changes`, are whole matrices by projection.
    """
    found = {}
    lora = variables.get("prompts", {}).get(tower, {}).get("lora", {})
    if lora and 0 <= i < len(lora["A"]):
        names = [{"q": "query", "k": "key", "v": "value"}[x] for x in config.lora_parts]
        width = lora["A"].shape[2]
        found["changes"] = {
            name: lora["B"][i][n * width : (n + 1) * width] @ lora["A"][i]
            for n, name in enumerate(names)
        }
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
        beside = adapters_of(variables, "text", i - first, config)
        mask = causal(x.shape[1]) if tower_size.causal else None
        x = layer(x, weights, tower_size, mask, beside)[:, count:]
    ends = {"end": (full == size.eos_id).argmax(-1), "last": np.full(len(x), -1)}
    x = layer_norm(x, tower["ln_final"], tower_size.epsilon)
    x = x[np.arange(len(x)), ends[tower_size.reads]]
    return unit(projected(x, tower))


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


def tokens_of(size, tower, frames):
    """The tokens `[F, S, D]` of frames in front of the first LayerNorm."""
    patch, count = size.patch_size, len(frames)
    mean, deviation = (
        np.array(x, np.float32) for x in (size.frames.mean, size.frames.deviation)
    )
    pixels = (frames / np.float32(255) - mean) / deviation
    x = jax.lax.conv_general_dilated(
        pixels,
        tower["patch_embedding"],
        (patch, patch),
        "VALID",
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
    )
    x = x.reshape(count, -1, size.vision.width) + tower.get("patch_bias", 0)
    if "class_embedding" in tower:
        first_token = jnp.broadcast_to(
            tower["class_embedding"], (count, 1, x.shape[-1])
        )
        x = jnp.concatenate([first_token, x], axis=1)
    return x + tower["position_embedding"]


def places_of(size):
    """The (row, column) of each patch, as a rotary embedding counts them."""
    rotary, side = size.vision.rotary, size.image_size // size.patch_size
    steps = [n + (rotary.offset if rotary else 0) for n in range(side)]
    if rotary and rotary.grid:
        steps = [step / side * rotary.grid for step in steps]
    return [(row, column) for row in steps for column in steps]


def encode_video(size, config, variables, frames):
    """Eq. 3-9 for one video `[F, H, W, 3]`."""
    tower, tower_size = variables["params"]["vision"], size.vision
    added = prompts_of(variables, "vision")
    layers, count = tower_size.layers, len(frames)
    split = layers if config.split_layer < 0 else config.split_layer
    first, last = config.first_layer - 1, config.last_layer or layers
    # The number of class tokens, which stand before the prompts.
    one = int("class_embedding" in tower)
    x, patches = tokens_of(size, tower, frames), places_of(size)

    def pre(x):
        if "ln_pre" not in tower:
            return x
        return layer_norm(x, tower["ln_pre"], tower_size.epsilon)

    def context_of(x):
        return x[:, 0] if one else x.mean(1)

    x = pre(x)
    length = x.shape[1]
    for i in range(layers):
        weights = layer_weights(tower, i, layers)
        beside = adapters_of(variables, "vision", i - first, config)
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
                    context_of(x),
                    config.context_length,
                    config.cmm,
                    tower_size.heads,
                )
                if config.cmm_role == "prompts":
                    prompts.append(made)
                elif one:
                    updated = x[:, 0] + made[:, 0]
                    x = jnp.concatenate([updated[:, None], x[:, 1:]], axis=1)
                else:
                    x = x + made
            many = sum(p.shape[1] for p in prompts)
            whole = jnp.concatenate([x[:, :one], *prompts, x[:, one:]], axis=1)
            places = [None] * (one + many) + patches
            whole = layer(whole, weights, tower_size, None, beside, places)
            x = jnp.concatenate([whole[:, :one], whole[:, one + many :]], axis=1)
            continue
        if i == split:
            x = x + added["frame_positions"][:, None]
        row = jnp.zeros((0, x.shape[-1]))
        if first <= i < last and "joint_prompts" in added:
            row = enter(added["joint_prompts"][i - max(first, split)])
        ahead = count * one
        parts = [x[:, 0]] * one + [row] + [frame[one:] for frame in x]
        whole = jnp.concatenate(parts)[None]
        places = [None] * (ahead + len(row)) + patches * count
        whole = layer(whole, weights, tower_size, None, beside, places)[0]
        rest = whole[ahead + len(row) :].reshape(count, length - one, -1)
        classes = whole[:ahead].reshape(count, one, x.shape[-1])
        x = jnp.concatenate([classes, rest], axis=1)
    x = layer_norm(x, tower["ln_post"], tower_size.epsilon)
    x = pooled(x, tower["pooling"], tower_size) if "pooling" in tower else x[:, 0]
    return unit(projected(x, tower)).mean(0)


def encode_videos(size, config, variables, frames):
    return jnp.stack([encode_video(size, config, variables, x) for x in frames])


def cross_entropy(videos, texts, variables):
    """Symmetric cross-entropy, written out."""
    logits = jnp.exp(variables["params"]["logit_scale"]) * texts @ videos.T
    rows = jax.nn.logsumexp(logits, 1) - jnp.diag(logits)
    columns = jax.nn.logsumexp(logits, 0) - jnp.diag(logits)
    return (rows.mean() + columns.mean()) / 2


def loss(size, config, variables, frames, ids):
    """The loss, and the features that it is of."""
    videos = encode_videos(size, config, variables, frames)
    texts = encode_texts(size, config, variables, ids)
    return cross_entropy(videos, texts, variables), (videos, texts)
