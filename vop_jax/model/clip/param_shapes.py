"""The shapes of a backbone's own parameters, from its description alone.

Tracing both towers says the same, but takes longer than reading a small backbone;
`tests/model/test_shapes.py` holds one against the other.
"""

from vop_jax.model.clip.sizes import PROJECTIONS, ClipSize, TowerSize

Shape = tuple[int, ...]


def _norm(name: str, width: int) -> dict[str, Shape]:
    return {f"{name}/scale": (width,), f"{name}/bias": (width,)}


def _attention_shapes(size: TowerSize) -> dict[str, Shape]:
    width, heads = size.width, size.heads
    head = width // heads
    shapes: dict[str, Shape] = {}
    for name in ("query", "key", "value"):
        shapes[f"attention/{name}/kernel"] = (width, heads, head)
        if size.key_bias or name != "key":
            shapes[f"attention/{name}/bias"] = (heads, head)
    if size.attention_norm:
        shapes |= _norm("attention/ln", width)
    shapes["attention/out/kernel"] = (heads, head, width)
    shapes["attention/out/bias"] = (width,)
    return shapes


def _mlp_shapes(size: TowerSize) -> dict[str, Shape]:
    width, mlp = size.width, size.mlp
    shapes: dict[str, Shape] = {}
    for name in ("gate", "up") if size.gated else ("fc_1",):
        shapes[f"mlp/{name}/kernel"] = (width, mlp)
        shapes[f"mlp/{name}/bias"] = (mlp,)
    if size.gated:
        shapes |= _norm("mlp/ln", mlp)
    return shapes | {"mlp/fc_2/kernel": (mlp, width), "mlp/fc_2/bias": (width,)}


def _layer_shapes(size: TowerSize) -> dict[str, Shape]:
    """The parameters of one layer, by path within it."""
    norms = _norm("ln_1", size.width) | _norm("ln_2", size.width)
    return norms | _attention_shapes(size) | _mlp_shapes(size)


def _pooling_shapes(size: TowerSize) -> dict[str, Shape]:
    """The parameters of an attention pooling, by path within it."""
    own = {"probe": (size.width,), **_norm("ln", size.width)}
    return own | _attention_shapes(size) | _mlp_shapes(size)


def _tower_shapes(name: str, size: TowerSize, embedding: int) -> dict[str, Shape]:
    """Layers and projection of a tower; the last layer is stored apart."""
    parts = {"projection": (size.width, embedding), "projection_bias": (embedding,)}
    shapes: dict[str, Shape] = {
        f"{name}/{part}": parts[part] for part in PROJECTIONS[size.projection]
    }
    for path, shape in _layer_shapes(size).items():
        shapes[f"{name}/layers/{path}"] = (size.layers - 1, *shape)
        shapes[f"{name}/last_layer/{path}"] = shape
    return shapes


def _vision_shapes(size: ClipSize) -> dict[str, Shape]:
    """The parameters of the vision tower beside its layers, by path within it."""
    vision, patch = size.vision, size.patch_size
    width = vision.width
    shapes: dict[str, Shape] = {
        "patch_embedding": (patch, patch, 3, width),
        "position_embedding": (size.tokens, width),
        **_norm("ln_post", width),
    }
    if vision.class_token:
        shapes["class_embedding"] = (width,)
    if vision.patch_bias:
        shapes["patch_bias"] = (width,)
    if vision.pre_norm:
        shapes |= _norm("ln_pre", width)
    if vision.pooling is not None:
        pooling = _pooling_shapes(vision.pooling)
        shapes |= {f"pooling/{path}": shape for path, shape in pooling.items()}
    return shapes


def param_shapes(size: ClipSize) -> dict[str, Shape]:
    """The shape of each leaf of `params`, by its path within the collection."""
    text = size.text.width
    bias: dict[str, Shape] = {"logit_bias": ()} if size.loss == "sigmoid" else {}
    return {
        "logit_scale": (),
        **bias,
        **{f"vision/{path}": shape for path, shape in _vision_shapes(size).items()},
        **_tower_shapes("vision", size.vision, size.embedding),
        "text/token_embedding": (size.vocabulary, text),
        "text/position_embedding": (size.context_length, text),
        **_norm("text/ln_final", text),
        **_tower_shapes("text", size.text, size.embedding),
    }
