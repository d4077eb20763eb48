"""A layer of CLIP among what is added: Hugging Face's names, PyTorch's layouts."""

from collections.abc import Mapping
from typing import Any

from jaxtyping import Array

from vop_jax.model.clip.sizes import TowerSize


def block_shapes(size: TowerSize) -> dict[str, tuple[int, ...]]:
    """The shapes of a layer's parameters, by name."""
    width, mlp = size.width, size.mlp
    weights = {
        **{f"self_attn.{x}_proj": (width, width) for x in ("q", "k", "v", "out")},
        **{f"layer_norm{i}": (width,) for i in (1, 2)},
        **{"mlp.fc1": (mlp, width), "mlp.fc2": (width, mlp)},
    }
    return {
        f"{name}.{kind}": shape if kind == "weight" else shape[:1]
        for name, shape in weights.items()
        for kind in ("weight", "bias")
    }


def block_params(size: TowerSize, weights: Mapping[str, Array]) -> dict[str, Any]:
    """The same parameters as `layers.Block` takes them.

    Args:
        size: of the layer.
        weights: by the names of `block_shapes`.
    """
    wide, hidden = (size.width,), (size.mlp,)
    heads = (size.heads, size.width // size.heads)

    def dense(
        name: str, inputs: tuple[int, ...], outputs: tuple[int, ...]
    ) -> dict[str, Array]:
        # PyTorch's Linear holds [out, in].
        kernel = weights[f"{name}.weight"].T.reshape(*inputs, *outputs)
        return {"kernel": kernel, "bias": weights[f"{name}.bias"].reshape(outputs)}

    def norm(name: str) -> dict[str, Array]:
        return {"scale": weights[f"{name}.weight"], "bias": weights[f"{name}.bias"]}

    attention = {
        name: dense(f"self_attn.{name[0]}_proj", wide, heads)
        for name in ("query", "key", "value")
    }
    return {
        "ln_1": norm("layer_norm1"),
        "attention": attention | {"out": dense("self_attn.out_proj", heads, wide)},
        "ln_2": norm("layer_norm2"),
        "mlp": {
            "fc_1": dense("mlp.fc1", wide, hidden),
            "fc_2": dense("mlp.fc2", hidden, wide),
        },
    }
