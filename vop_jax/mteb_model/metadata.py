"""What mteb is told of a model; what is not known is left out."""

from collections.abc import Mapping
from typing import Any

from mteb.models.model_meta import ModelMeta, ScoringFunction  # pyright: ignore
from pydantic import ValidationError

from data_pipelines.console.errors import UserError
from vop_jax.hub.names import origin_of
from vop_jax.model.tree_paths import paths
from vop_jax.runtime.run_folder import RunFolder
from vop_jax.sharing.card import CITATION

# A data set's table -> the tasks of mteb whose videos are of the same source, which a
# model that was tuned on it has seen: mteb then does not call it zero-shot.
TASKS = {
    "msrvtt_9k": ("MSRVTTT2V", "MSRVTTV2T"),
    "msrvtt_7k": ("MSRVTTT2V", "MSRVTTV2T"),
    "didemo": ("DiDeMoT2VRetrieval", "DiDeMoV2TRetrieval"),
    "activitynet": (
        "ActivityNetCaptionsT2VRetrieval",
        "ActivityNetCaptionsV2TRetrieval",
    ),
    "msvd": ("MSVDT2VRetrieval", "MSVDV2TRetrieval"),
    "vatex": ("VATEXT2VRetrieval", "VATEXV2TRetrieval"),
    "demo": (),
}
# The namespace of models that are not on the hub.
_OWNER = "vop_jax"


def model_meta(
    model: Any,
    name: str | None,
    license: str | None,
    frames: Mapping[str, Any] | None,
) -> ModelMeta:
    """Mteb's description of a model.

    Its revision is the model's fingerprint, so that results in mteb's cache are never
    taken for those of other weights, and `frames` is part of the experiment's name.

    Args:
        model: of `vop_jax.load`.
        name: `owner/name`; None takes what the model is known by.
        license: in mteb's spelling.
        frames: how frames are chosen, if not as the model was trained.

    Raises:
        UserError: mteb does not know the license.
    """
    arrays = paths(model.variables).values()
    count = sum(int(x.size) for x in arrays)
    tuned = "method" in model.metadata
    origin = origin_of(model.backbone.folder)
    known_by = origin.repository if origin else f"{_OWNER}/{_short_name(model)}"
    if tuned:
        known_by = f"{_OWNER}/{model.metadata['method']}-{_short_name(model)}"
    fields: dict[str, Any] = {
        "loader": None,
        "name": name or known_by,
        "revision": model.fingerprint,
        "release_date": None,
        "languages": None,
        "n_parameters": count,
        "memory_usage_mb": sum(int(x.nbytes) for x in arrays) / 2**20,
        "max_tokens": model.tokenizer.length,
        "embed_dim": model.backbone.size.embedding,
        "license": license,
        "open_weights": None,
        "public_training_code": None,
        "public_training_data": None,
        "framework": ["JAX"],
        "similarity_fn_name": ScoringFunction.DOT_PRODUCT,
        "use_instructions": False,
        "training_datasets": _tasks_of(model) if tuned else None,
        "adapted_from": origin.repository if tuned and origin else None,
        "modalities": ["text", "video"],
        "citation": CITATION if tuned else None,
        "experiment_kwargs": frames,
    }
    try:
        return ModelMeta(**fields)
    except ValidationError as error:
        # The license is the only field whose values mteb lists.
        field = ".".join(map(str, error.errors()[0]["loc"][:1]))
        raise UserError(
            f"{field} is {fields.get(field)!r}, which mteb does not know; pass one of "
            "mteb's, such as 'apache-2.0', or the address of its text"
        ) from None


def _short_name(model: Any) -> str:
    """The backbone's name without an owner."""
    origin = origin_of(model.backbone.folder)
    folder = origin.repository if origin else str(model.backbone.folder)
    return folder.rstrip("/").rpartition("/")[-1]


def _tasks_of(model: Any) -> set[str] | None:
    """The tasks whose videos the model was tuned on; None if that is not known."""
    if not model.run:
        return None
    dataset = RunFolder(model.run).read_config().get("dataset")
    return set(TASKS[dataset]) if dataset in TASKS else None
