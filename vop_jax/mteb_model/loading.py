"""The way to mteb: checks what is asked for, and imports mteb only then."""

import numbers
from typing import TYPE_CHECKING, Any

from data_pipelines.console.errors import UserError
from data_pipelines.console.ranges import Range
from vop_jax.hub.names import repository_of
from vop_jax.surface.inputs import MOST_FRAMES, kind_of, whole_number

if TYPE_CHECKING:
    from vop_jax.mteb_model.encoder import MtebEncoder

# From a frame in a thousand seconds to more than a film has.
_RATE = Range(0.001, 1_000)


def mteb_encoder(
    model: Any,
    *,
    name: str | None = None,
    license: str | None = None,
    num_frames: int | None = None,
    fps: float | None = None,
    max_frames: int | None = None,
) -> "MtebEncoder":
    """A model as mteb takes it: `mteb.evaluate(vop_jax.mteb_encoder(model), tasks)`.

    Frames are chosen by mteb's own rule, `num_frames` from the first to the last at
    equal distances, or `fps` a second. They are decoded here, so torchcodec is not
    needed.

    Args:
        model: of `vop_jax.load`, both towers.
        name: `owner/name` under which mteb files the results; by default what the
            model is known by.
        license: of the tuned parameters, in mteb's spelling (`apache-2.0`).
        num_frames: of each video; by default the model's own.
        fps: frames a second, instead of `num_frames`; a video of a lower rate keeps
            all of its frames.
        max_frames: the most frames of a video, with `fps`.

    Raises:
        UserError: mteb is not installed, an argument is wrong, or the model belongs to
            another number of frames.
    """
    for wanted in ("encode_videos", "encode_texts", "fingerprint"):
        if not hasattr(model, wanted):
            raise UserError(
                f"model is {kind_of(model)}; pass what vop_jax.load returns"
            )
    if name is not None:
        repository_of(name)
    if fps is None:
        if max_frames is not None:
            raise UserError("max_frames limits fps; pass fps, or num_frames instead")
        count = model.num_frames if num_frames is None else num_frames
        chosen = {"num_frames": whole_number(count, "num_frames", MOST_FRAMES)}
        model.check_frames(chosen["num_frames"])
    else:
        # Also one of numpy's.
        if isinstance(fps, bool) or not isinstance(fps, numbers.Real):
            raise UserError(f"fps is {kind_of(fps)}; pass a number {_RATE}")
        if fps not in _RATE:
            # Of a whole number that no float holds there is nothing short to show.
            given = f"{float(fps):g}" if abs(fps) < 1e18 else "out of range"
            raise UserError(f"fps is {given}; pass a number {_RATE}")
        if num_frames is not None:
            raise UserError("pass num_frames or fps, not both")
        if max_frames is None:
            raise UserError(
                "fps alone gives a long video any number of frames; pass max_frames"
            )
        most = whole_number(max_frames, "max_frames", MOST_FRAMES)
        chosen = {"fps": float(fps), "max_frames": most}
        _check_any_count(model)
    try:
        # Imported late: it needs mteb.
        from vop_jax.mteb_model.encoder import MtebEncoder
    except ImportError as error:
        raise UserError(
            f"mteb cannot be imported ({error}); run pip install 'mteb>=2.26.24,<3'"
        ) from None
    return MtebEncoder(model, name, license, chosen)


def _check_any_count(model: Any) -> None:
    """Checks that a model takes videos of any number of frames.

    Raises:
        UserError: its tuned parameters belong to frame positions.
    """
    prompts, layers = model.encoder.prompt_config, model.backbone.size.vision.layers
    if prompts.bound_to_frames(layers):
        raise UserError(
            f"fps gives each video another number of frames, but the tuned parameters "
            f"belong to {prompts.num_frames} frame positions; leave fps out"
        )
