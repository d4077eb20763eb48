"""The shapes of a CLIP's own parameters, from its sizes alone.

Tracing both towers says the same, but takes longer than reading a small CLIP;
`tests/model/test_shapes.py` holds one against the other.
"""

from vop_jax.model.clip.sizes import ClipSize, TowerSize

Shape = tuple[int, ...]


def _norm(name: str, width: int) -> dict[str, Shape]:
    return {f"{name}/scale": (width,), f"{name}/bias": (width,)}


def _layer_shapes(size: TowerSize) -> dict[str, Shape]:
    """The parameters of one layer, by path within it."""
    width, heads, mlp = size.width, size.heads, size.mlp
    head = width // heads
    shapes: dict[str, Shape] = _norm("ln_1", width) | _norm("ln_2", width)
    for name in ("query", "key", "value"):
        shapes[f"attention/{name}/kernel"] = (width, heads, head)
        shapes[f"attention/{name}/bias"] = (heads, head)
    shapes["attention/out/kernel"] = (heads, head, width)
    shapes["attention/out/bias"] = (width,)
    for name, before, behind in (("fc_1", width, mlp), ("fc_2", mlp, width)):
        shapes[f"mlp/{name}/kernel"] = (before, behind)
        shapes[f"mlp/{name}/bias"] = (behind,)
    return shapes


def _tower_shapes(name: str, size: TowerSize, embedding: int) -> dict[str, Shape]:
    """Layers and projection of a tower; the last layer is stored apart."""
    shapes: dict[str, Shape] = {f"{name}/projection": (size.width, embedding)}
    for path, shape in _layer_shapes(size).items():
        shapes[f"{name}/layers/{path}"] = (size.layers - 1, *shape)
        shapes[f"{name}/last_layer/{path}"] = shape
    return shapes


def param_shapes(size: ClipSize) -> dict[str, Shape]:
    """The shape of each leaf of `params`, by its path within the collection."""
    vision, text, patch = size.vision.width, size.text.width, size.patch_size
    return {
        "logit_scale": (),
        "vision/class_embedding": (vision,),
        "vision/patch_embedding": (patch, patch, 3, vision),
        "vision/position_embedding": (1 + size.patches, vision),
        **_norm("vision/ln_pre", vision),
        **_norm("vision/ln_post", vision),
        **_tower_shapes("vision", size.vision, size.embedding),
        "text/token_embedding": (size.vocabulary, text),
        "text/position_embedding": (size.context_length, text),
        **_norm("text/ln_final", text),
        **_tower_shapes("text", size.text, size.embedding),
    }
