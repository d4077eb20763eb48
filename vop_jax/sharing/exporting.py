"""Both encoders as StableHLO, which JAX alone runs, without this project's code."""

import dataclasses
import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

import jax
import numpy as np
from jax import export as jax_export

from data_pipelines.console.errors import UserError
from data_pipelines.console.terminal import say
from vop_jax.model.clip.sizes import TOWERS
from vop_jax.model.dual_encoder import DualEncoder
from vop_jax.model.tree_paths import from_paths, paths
from vop_jax.runtime.new_folder import new_folder

FORMAT = 1
# Where the programs run; lowered for all of them at once.
PLATFORMS = ("cpu", "cuda", "tpu")
WEIGHTS, SIGNATURE, ENDING = "weights.npz", "signature.json", ".stablehlo"


class Encoders(Protocol):
    """What is exported of a `vop_jax.Model`."""

    @property
    def encoder(self) -> DualEncoder:
        """Both towers."""
        ...

    @property
    def variables(self) -> dict[str, Any]:
        """Their variables."""
        ...

    @property
    def num_frames(self) -> int:
        """F."""
        ...

    @property
    def image_size(self) -> int:
        """Height and width of a frame, pixels."""
        ...

    @property
    def tokenizer(self) -> Any:
        """Strings -> token ids."""
        ...


def export(model: Encoders, output: Path, videos: int, texts: int) -> None:
    """Writes `videos.stablehlo`, `texts.stablehlo`, their weights and a signature.

    A program is a serialized `jax.export.Exported` of two arguments: the arrays of
    `weights.npz` by name, and uint8 `[videos, F, H, W, 3]` or int32 `[texts, N]`.

    Args:
        model: with both towers, in float32.
        output: a folder that does not exist yet.
        videos: how many videos a call takes.
        texts: how many texts a call takes.

    Raises:
        UserError: a tower was not loaded, or the model computes in another dtype.
    """
    absent = [x for x in TOWERS if x not in model.variables["params"]]
    if absent:
        raise UserError(f"the model was loaded without its {absent[0]} tower")
    if model.encoder.compute.dtype != "float32":
        raise UserError("only float32 is exported; load the model with dtype='float32'")
    side, length = model.image_size, model.tokenizer.length
    shapes = {
        "videos": ((videos, model.num_frames, side, side, 3), np.dtype(np.uint8)),
        "texts": ((texts, length), np.dtype(np.int32)),
    }
    weights = {name: np.asarray(x) for name, x in paths(model.variables).items()}
    # Kernels of one kind of device would run on no other.
    compute = dataclasses.replace(model.encoder.compute, attention="xla")
    encoder = model.encoder.clone(compute=compute)
    size = encoder.size
    signature: dict[str, Any] = {
        "format": FORMAT,
        "jax": jax.__version__,
        "platforms": PLATFORMS,
        "eos_id": size.eos_id,
        "programs": {},
    }
    with new_folder(output) as partial:
        for name, (shape, dtype) in shapes.items():
            program = _exported(encoder, f"encode_{name}", weights, shape, dtype)
            (partial / f"{name}{ENDING}").write_bytes(program.serialize())
            signature["programs"][name] = {
                "input": shape,
                "dtype": dtype.name,
                "output": (shape[0], size.embedding),
            }
        file, arrays = io.BytesIO(), dict[str, Any](weights)
        np.savez(file, **arrays)
        (partial / WEIGHTS).write_bytes(file.getvalue())
        (partial / SIGNATURE).write_text(json.dumps(signature, indent=2) + "\n")
    say(f"StableHLO of {videos} videos and of {texts} texts: {output}")


def _exported(
    encoder: DualEncoder,
    method: str,
    weights: dict[str, np.ndarray],
    shape: tuple[int, ...],
    dtype: np.dtype,
) -> jax_export.Exported:
    def encode(held: dict[str, Any], given: Any) -> Any:
        return encoder.apply(from_paths(held), given, method=method)

    compiled: Callable[..., Any] = jax.jit(encode)
    given = jax.ShapeDtypeStruct(shape, dtype)
    return jax_export.export(compiled, platforms=PLATFORMS)(weights, given)
