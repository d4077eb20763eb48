"""Text-video retrieval by prompt-tuning a frozen CLIP (VoP, CVPR 2023).

model = vop_jax.load("runs/demo_vop_fc")
similarity = model.encode_texts(["a red circle"]) @ model.encode_videos(paths).T
vop_jax.retrieval_metrics(similarity)
"""

import importlib
from typing import TYPE_CHECKING, Any

from data_pipelines.console.starting import end_when_interrupted

if TYPE_CHECKING:
    from data_pipelines.console.errors import UserError
    from data_pipelines.decoding.frames import VideoError
    from vop_jax.api import Model, load
    from vop_jax.index.answers import Answer, Filters, Found, Hit, Query
    from vop_jax.index.video_index import VideoIndex
    from vop_jax.mteb_model.loading import mteb_encoder
    from vop_jax.scoring.metrics import retrieval_metrics
    from vop_jax.surface.video_reader import EncodedVideos, FailedVideo

# The one place that has it; pyproject.toml reads it here.
__version__ = "0.2.0"

__all__ = [
    "Answer",
    "EncodedVideos",
    "FailedVideo",
    "Filters",
    "Found",
    "Hit",
    "Model",
    "Query",
    "UserError",
    "VideoError",
    "VideoIndex",
    "load",
    "mteb_encoder",
    "retrieval_metrics",
]
_HOMES = {
    **dict.fromkeys(
        ("Answer", "Filters", "Found", "Hit", "Query"), "vop_jax.index.answers"
    ),
    "EncodedVideos": "vop_jax.surface.video_reader",
    "FailedVideo": "vop_jax.surface.video_reader",
    "Model": "vop_jax.api",
    "UserError": "data_pipelines.console.errors",
    "VideoError": "data_pipelines.decoding.frames",
    "VideoIndex": "vop_jax.index.video_index",
    "load": "vop_jax.api",
    "mteb_encoder": "vop_jax.mteb_model.loading",
    "retrieval_metrics": "vop_jax.scoring.metrics",
}

end_when_interrupted()


def __getattr__(name: str) -> Any:
    """Imports what is asked for; JAX takes seconds that not every command has."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    """What completion offers in a notebook, imported or not."""
    return sorted({*globals(), *__all__})
