"""Text-video retrieval by prompt-tuning a frozen CLIP (VoP, CVPR 2023).

model = vop_jax.load("runs/demo_vop_fc")
similarity = model.encode_texts(["a red circle"]) @ model.encode_videos(paths).T
vop_jax.retrieval_metrics(similarity)
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from vop_jax.metrics import retrieval_metrics
    from vop_jax.model import Model, load

__all__ = ["Model", "load", "retrieval_metrics"]
_HOMES = {"Model": "model", "load": "model", "retrieval_metrics": "metrics"}


def __getattr__(name: str) -> Any:
    """Imports what is asked for; JAX takes seconds that not every command has."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
