"""Scores a similarity matrix from a file, or a model on a data set.

    python -m vop_jax.evaluate --similarity=sims.npy [--video_of_text=map.npy]
        [--bank=bank.npy] [--dsl_temperature=0.01] [--ties=mean] [--json=FILE]
    python -m vop_jax.evaluate --checkpoint=RUN_OR_EXPORT [--dataset=demo]
        [--split=test] [--tuned=FILE] [--similarity_out=FILE] [--json=FILE]

A matrix holds texts (rows) by videos (columns), as .npy or as .npz with one array.
Every metric is printed with its 95% bootstrap interval; `--against` says whether
another model's differ by more than chance. Hub-corrected metrics (DSL and
QB-Norm) are printed in a table of their own: always for a model, for a matrix if a
temperature or a bank is given.
"""

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from data_pipelines.catalog.table import DATASETS, find_dataset
from data_pipelines.console.arguments import (
    Parser,
    local_path,
    place,
    store_path,
)
from data_pipelines.console.errors import UserError, command
from data_pipelines.console.ranges import SEEDS, Range, number
from data_pipelines.console.terminal import say, warn
from data_pipelines.files.outputs import check_outputs
from data_pipelines.preparing.limits import FRAMES
from vop_jax.model.clip.families import HUB_NAMES
from vop_jax.runtime.files import write_output
from vop_jax.runtime.startup import start_up
from vop_jax.scoring.ties import TIES

if TYPE_CHECKING:
    from data_pipelines.feeding.loading import Data
    from vop_jax.api import Model
    from vop_jax.scoring.evaluation import Evaluation

# The flags that need a matrix, and those that need a model.
_MATRIX_FLAGS = ("video_of_text", "bank", "video_bank")
_MODEL_FLAGS = (
    *("dataset", "data_dir", "split", "tuned", "num_frames", "batch_size"),
    *("bank_captions", "similarity_out", "time_order"),
)
# Draws of the intervals: their figures are held, and their ends no longer move.
_RESAMPLES = Range(1, 1_000_000)
_BATCH, _CAPTIONS = Range(1, 1_000_000), Range(0, 1_000_000_000)
# Of similarities, which are between -1 and 1; beyond it, all but one count as 0.
_TEMPERATURE = Range(1e-6, 1e6)
_INPUTS = ("against", "similarity", "video_of_text", "bank", "video_bank", "tuned")
_OUTPUTS = ("json", "ranks", "similarity_out")


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = Parser("vop_jax.evaluate", __doc__)
    trained = "those of training"
    add = parser.add_argument
    add(
        "--ties",
        choices=TIES,
        help="how equal similarities count (default: mean, or the run's)",
    )
    add(
        "--resamples",
        type=number(int, _RESAMPLES),
        default=1000,
        help="bootstrap samples of an interval, and permutations of a comparison",
    )
    add(
        "--seed",
        type=number(int, SEEDS),
        default=0,
        help="seed of the bootstrap samples and of the permutations",
    )
    add(
        "--dsl_temperature",
        type=number(float, _TEMPERATURE),
        help="temperature of DSL (default: 1 / the model's scale; for a matrix no DSL)",
    )
    add(
        "--beta",
        type=number(float, _TEMPERATURE),
        default=20.0,
        help="QB-Norm's inverse temperature",
    )
    add("--json", type=store_path, help="file for all metrics (default: not written)")
    add(
        "--ranks",
        type=store_path,
        help="file for the rank of every query, as JSON (default: not written)",
    )
    add(
        "--against",
        type=local_path,
        help="--ranks file of another model on the same queries, to compare with by a "
        "paired permutation test (default: none)",
    )
    add = parser.add_argument_group("a matrix").add_argument
    add(
        "--similarity",
        type=local_path,
        help=".npy or .npz, texts by videos (default: score a model)",
    )
    add(
        "--video_of_text",
        type=local_path,
        help="index of each text's video, .npy (default: text i belongs to video i)",
    )
    add(
        "--bank",
        type=local_path,
        help="bank of QB-Norm: other texts by the same videos (default: no QB-Norm)",
    )
    add(
        "--video_bank",
        type=local_path,
        help="bank of QB-Norm for v2t: texts by other videos (default: none)",
    )
    add = parser.add_argument_group("a model").add_argument
    add(
        "--checkpoint",
        type=place,
        help="folder of a run or of a converted or exported CLIP, or name of a CLIP, "
        f"{', '.join(HUB_NAMES)} (default: score a matrix)",
    )
    add("--dataset", help=f"one of {', '.join(DATASETS)} (default: the run's own)")
    add(
        "--data_dir",
        type=lambda text: str(store_path(text)),
        help="folder of prepared data sets (default: the run's own, or data)",
    )
    add(
        "--split",
        choices=("train", "validation", "test"),
        help="split to score (default: test)",
    )
    add(
        "--tuned",
        type=local_path,
        help="tuned.safetensors to add to the CLIP (default: the one in its folder)",
    )
    add(
        "--num_frames",
        type=number(int, FRAMES),
        help=f"frames per video (default: {trained})",
    )
    add(
        "--batch_size",
        type=number(int, _BATCH),
        help="videos per step (default: the run's own, or 64)",
    )
    add(
        "--bank_captions",
        type=number(int, _CAPTIONS),
        help="training captions for QB-Norm, 0 for no QB-Norm (default: 10000)",
    )
    add(
        "--similarity_out",
        type=store_path,
        help="file for the similarity matrix, .npy (default: not written)",
    )
    add(
        "--time_order",
        action="store_true",
        default=None,
        help="also score reversed videos, and captions with swapped words of order "
        "(default: not scored)",
    )
    given = parser.parse_args(arguments)
    _check(given)
    return given


def _check(given: argparse.Namespace) -> None:
    """Reports mistakes that can be found before JAX is imported."""
    if (given.similarity is None) == (given.checkpoint is None):
        raise UserError("pass either --similarity=FILE or --checkpoint=FOLDER")
    other, needs = _MODEL_FLAGS, "checkpoint"
    if given.checkpoint is not None:
        other, needs = _MATRIX_FLAGS, "similarity"
    for name in other:
        if getattr(given, name) is not None:
            raise UserError(f"--{name} can only be used with --{needs}")
    if given.dataset is not None:
        find_dataset(given.dataset)
    if given.tuned is not None and not given.tuned.is_file():
        raise UserError(f"--tuned: there is no file {given.tuned}")
    if given.data_dir is not None and Path(given.data_dir).is_file():
        raise UserError(f"--data_dir: {given.data_dir} is a file; pass a folder")
    outputs = {name: getattr(given, name) for name in _OUTPUTS}
    if any(outputs.values()):
        inputs = [(x, getattr(given, x)) for x in _INPUTS if getattr(given, x)]
        if given.checkpoint is not None:
            from vop_jax.weights.locate import files_of

            inputs += [("checkpoint", x) for x in files_of(given.checkpoint)]
        check_outputs(outputs, inputs)


def matrix_evaluation(given: argparse.Namespace) -> "Evaluation":
    """The evaluation of a matrix, `--similarity`."""
    # Imported late, so that the help and a typing mistake are answered without a wait.
    from vop_jax.scoring.matrix_evaluation import evaluate_matrix

    return evaluate_matrix(
        given.similarity,
        given.video_of_text,
        ties=given.ties or "mean",
        temperature=given.dsl_temperature,
        bank=given.bank,
        video_bank=given.video_bank,
        beta=given.beta,
        **_drawing(given),
    )


def _drawing(given: argparse.Namespace) -> dict[str, Any]:
    """The fields of an `Evaluation` that no metric depends on."""
    from vop_jax.scoring.comparison import read_ranks

    # A file that cannot be read is reported before anything is computed.
    against = read_ranks(given.against) if given.against else None
    return {"resamples": given.resamples, "seed": given.seed, "against": against}


def model_evaluation(given: argparse.Namespace) -> "Evaluation":
    """The evaluation of a model on a data set, `--checkpoint`."""
    from vop_jax.runtime.run_folder import RunFolder

    drawing, folder = _drawing(given), RunFolder(given.checkpoint)
    config = folder.read_config() if folder.is_run() else {}
    dataset, split = _dataset_of(given, config), given.split or "test"
    # Imported late, so that a typing mistake is answered without a wait.
    import numpy as np

    from data_pipelines.preparing.provenance import left_out, warn_of_difference
    from vop_jax.api import load
    from vop_jax.devices.config import MeshConfig
    from vop_jax.devices.mesh import make_mesh
    from vop_jax.model.embedder import Embedder
    from vop_jax.scoring.evaluation import Evaluation
    from vop_jax.scoring.metrics import retrieval_counts
    from vop_jax.scoring.order_words import swapped_captions
    from vop_jax.scoring.results import score
    from vop_jax.scoring.similarity import similarity_of
    from vop_jax.scoring.time_order import time_order

    # The model and the data.
    # A run is scored in the dtype of its own evaluation, a backbone in PyTorch's.
    dtype = config.get("compute", {}).get("dtype", "float32")
    model = load(given.checkpoint, tuned=given.tuned, dtype=dtype)
    wanted = 10_000 if given.bank_captions is None else given.bank_captions
    # The training split cannot be the bank of its own queries.
    banked = wanted > 0 and split != "train"
    splits = [split, "train"] if banked else [split]
    where = dataset, given.data_dir or folder.find_data(dataset)
    data = _model_data(given, config, where, splits, model)
    warn_of_difference(folder.read_results().get("data"), data.provenance)

    # The similarities of the split and of the bank.
    embedder = Embedder(model.encoder, make_mesh(MeshConfig()))
    batch_size = given.batch_size or config.get("evaluation_batch_size", 64)
    found = data.splits[split]
    videos = embedder.videos(model.variables, found, batch_size)
    texts = embedder.texts(model.variables, found.token_ids)
    similarity = similarity_of(texts, videos)
    held = isinstance(similarity, np.ndarray)
    if not held:
        warn("the similarity matrix is too large for memory: no hub corrections")
        if given.similarity_out:
            raise UserError("--similarity_out: the matrix is too large for memory")
    bank = None
    if banked and held:
        ids = data.splits["train"].token_ids
        some = np.random.default_rng(given.seed).permutation(len(ids))[:wanted]
        bank = embedder.texts(model.variables, ids[np.sort(some)]) @ videos.T

    # The same with the order of time reversed, in the videos and in the captions.
    ties = given.ties or config.get("ties", "mean")
    order = {}
    if given.time_order:
        rows, changed = swapped_captions(found.captions)
        ids = model.tokenizer(changed) if rows else found.token_ids[:0]
        order["time_order"] = time_order(
            *(texts, videos),
            embedder.videos(model.variables, found, batch_size, backwards=True),
            found.video_of_caption,
            np.array(rows, np.int64),
            embedder.texts(model.variables, ids) if rows else texts[:0],
            ties,
        )

    # The metrics of `results.json`, and what else is scored with them.
    counts = retrieval_counts(similarity, data.splits[split].video_of_caption)
    scale = float(np.exp(model.variables["params"]["logit_scale"]))
    return Evaluation(
        title=f"{given.checkpoint}, {dataset}, {split} split",
        similarity=similarity,
        video_of_text=data.splits[split].video_of_caption,
        counts=counts,
        ties=ties,
        results={
            "method": model.metadata.get("method", config.get("method", "zero_shot")),
            "dataset": dataset,
            "dtype": model.dtype,
            **score(similarity, data.splits[split], ties, counts),
            **order,
            "left_out": left_out(data.provenance, split),
            "data": data.provenance,
        },
        texts=data.splits[split].captions,
        video_ids=data.splits[split].video_ids,
        temperature=(given.dsl_temperature or 1 / scale) if held else None,
        bank=bank,
        beta=given.beta,
        **drawing,
    )


def _dataset_of(given: argparse.Namespace, config: dict[str, Any]) -> str:
    """The data set of the flags or of the run."""
    dataset = given.dataset or config.get("dataset")
    if dataset is None:
        raise UserError(
            f"--checkpoint={given.checkpoint} is not the folder of a run, which names "
            "its data set; pass --dataset=NAME, or another --checkpoint"
        )
    find_dataset(dataset)
    return dataset


def _model_data(
    given: argparse.Namespace,
    config: dict[str, Any],
    where: tuple[str, str],
    splits: list[str],
    model: "Model",
) -> "Data":
    """The splits that a model is scored on, as its run read them."""
    from data_pipelines.feeding.loading import load_data, render_missing
    from vop_jax.runtime.processes import main_first
    from vop_jax.weights.frame_recipes import resizing_of

    num_frames = given.num_frames or config.get("num_frames")
    if num_frames is None:
        num_frames = find_dataset(where[0]).num_frames
        num_frames = model.num_frames if model.metadata else num_frames
    model.check_frames(num_frames)
    resizing = resizing_of(model.backbone.size)
    render_missing(*where, num_frames, model.image_size, resizing, once=main_first)
    return load_data(
        *where,
        num_frames=num_frames,
        image_size=model.image_size,
        resizing=resizing,
        tokenize=model.tokenizer,
        splits=splits,
        **{
            name: config[name]
            for name in ("holdout", "train_on_holdout", "memory_gb")
            if name in config
        },
    )


@command
def main(arguments: Sequence[str] | None = None) -> None:
    """Parses the flags, scores and writes."""
    given = _parse(arguments)
    start_up()
    build = matrix_evaluation if given.checkpoint is None else model_evaluation
    evaluation = build(given)
    # Ranks that cannot be compared are an error before anything is written.
    _ = evaluation.compared
    if given.similarity_out:
        from vop_jax.scoring.matrix_file import as_npy

        # A matrix that is not held is refused before it is scored.
        write_output(given.similarity_out, as_npy(evaluation.similarity))
    for path, content in (
        (given.json, evaluation.as_json),
        (given.ranks, evaluation.ranks_as_json),
    ):
        if path:
            write_output(path, json.dumps(content(), indent=1))
    evaluation.show()
    for name in _OUTPUTS:
        if getattr(given, name):
            say(f"{name}: {getattr(given, name)}")


if __name__ == "__main__":
    main()
