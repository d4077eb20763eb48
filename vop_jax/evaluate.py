"""Scores a similarity matrix, anybody's or a model's on a data set.

    python -m vop_jax.evaluate --similarity=sims.npy [--video_of_text=map.npy]
        [--bank=bank.npy] [--dsl_temperature=0.01] [--ties=mean] [--json=FILE]
    python -m vop_jax.evaluate --checkpoint=RUN_OR_EXPORT [--dataset=demo]
        [--split=test] [--tuned=FILE] [--similarity_out=FILE] [--json=FILE]

A matrix holds texts (rows) by videos (columns), as .npy or as .npz with one array.
Every figure has its 95% bootstrap interval. Figures corrected for hubs have a table of
their own: for a model always, for a matrix where a temperature or a bank is given.
"""

import argparse
import io
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from data_pipelines.arguments import Parser
from data_pipelines.datasets import DATASETS, find_dataset
from data_pipelines.errors import UserError, command
from data_pipelines.provenance import left_out, warn_of_difference
from data_pipelines.terminal import say, warn
from vop_jax.evaluation import Evaluation
from vop_jax.metrics import TIES, retrieval_metrics
from vop_jax.run_folder import RunFolder, write_atomically
from vop_jax.similarity import similarity_of
from vop_jax.startup import start_up

# Which flags go with which of the two inputs.
_MATRIX_FLAGS = ("video_of_text", "bank", "video_bank")
_MODEL_FLAGS = (
    *("dataset", "data_dir", "split", "tuned", "num_frames", "batch_size"),
    *("bank_captions", "similarity_out"),
)
_LEAST = {
    **dict.fromkeys(("resamples", "num_frames", "batch_size"), 1),
    **dict.fromkeys(("seed", "bank_captions"), 0),
}
_OUTPUTS = ("json", "ranks", "similarity_out")


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = Parser("vop_jax.evaluate", __doc__)
    add = parser.add_argument
    add("--ties", choices=TIES, help="how equal similarities count; mean, or the run's")
    add("--resamples", type=int, default=1000, help="draws of the intervals")
    add("--seed", type=int, default=0, help="of the draws")
    add("--dsl_temperature", type=float, help="DSL's; a model's own scale, inverted")
    add("--beta", type=float, default=20.0, help="QB-Norm's inverse temperature")
    add("--json", type=Path, help="file for all figures")
    add("--ranks", type=Path, help="file for the rank of every query, as JSON")
    add = parser.add_argument_group("a matrix").add_argument
    add("--similarity", type=Path, help=".npy or .npz, texts by videos")
    add("--video_of_text", type=Path, help="number of each text's video, .npy")
    add("--bank", type=Path, help="QB-Norm's: further texts by the same videos")
    add("--video_bank", type=Path, help="QB-Norm's for v2t: texts by further videos")
    add = parser.add_argument_group("a model").add_argument
    add("--checkpoint", help="a run's folder, or a converted or exported CLIP's")
    add("--dataset", help=f"one of {', '.join(DATASETS)}; the run's own")
    add("--data_dir", help="prepared data sets; the run's own, or data")
    add("--split", choices=("train", "validation", "test"), help="test")
    add("--tuned", type=Path, help="a tuned.safetensors to put on the CLIP")
    add("--num_frames", type=int, help="frames of a video; what was trained with")
    add("--batch_size", type=int, help="videos of a step; the run's own, or 64")
    add("--bank_captions", type=int, help="training captions for QB-Norm, 10000; 0: no")
    add("--similarity_out", type=Path, help="file for the similarity matrix, .npy")
    arguments = sys.argv[1:] if arguments is None else arguments
    given = parser.parse_args([_underscored(x) for x in arguments])
    _check(given)
    return given


def _underscored(argument: str) -> str:
    """`--two-words=x` as `--two_words=x`; both spellings are in use."""
    if not argument.startswith("--"):
        return argument
    name, equals, value = argument.partition("=")
    return "--" + name[2:].replace("-", "_") + equals + value


def _check(given: argparse.Namespace) -> None:
    """Answers what can be answered before anything heavy is imported."""
    if (given.similarity is None) == (given.checkpoint is None):
        raise UserError("give either --similarity=FILE or --checkpoint=FOLDER")
    other, needs = _MODEL_FLAGS, "checkpoint"
    if given.checkpoint is not None:
        other, needs = _MATRIX_FLAGS, "similarity"
    for name in other:
        if getattr(given, name) is not None:
            raise UserError(f"--{name} goes with --{needs}")
    for name, least in _LEAST.items():
        value = getattr(given, name)
        if value is not None and value < least:
            raise UserError(f"--{name} is {value}; it must be at least {least}")
    for name in ("dsl_temperature", "beta"):
        value = getattr(given, name)
        if value is not None and not 0 < value < float("inf"):
            raise UserError(f"--{name} is {value}; it must be positive")
    if given.dataset is not None:
        find_dataset(given.dataset)
    if given.tuned is not None and not given.tuned.is_file():
        raise UserError(f"--tuned: there is no file {given.tuned}")
    if given.data_dir is not None and Path(given.data_dir).is_file():
        raise UserError(f"--data_dir: {given.data_dir} is a file; give a folder")
    for name in _OUTPUTS:
        path = getattr(given, name)
        if path is None:
            continue
        parent = next(x for x in path.absolute().parents if x.exists())
        if path.is_dir() or not parent.is_dir() or not os.access(parent, os.W_OK):
            raise UserError(f"--{name}: {path} cannot be written; give another file")


def read_array(path: Path) -> np.ndarray:
    """The array of a .npy file or the only one of a .npz; nothing in it is run.

    Raises:
        UserError: missing, damaged, pickled, or several arrays.
    """
    try:
        file = path.open("rb")
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror})") from None
    try:
        with file:
            start = file.read(6)
            if start == b"\x93NUMPY":
                return np.load(path, mmap_mode="r", allow_pickle=False)
            if not start.startswith(b"PK\x03\x04"):
                raise UserError(f"{path} is no .npy or .npz file; use numpy.save")
            file.seek(0)
            found = np.load(file, allow_pickle=False)
            if len(found.files) == 1:
                return found[found.files[0]]
    except UserError:
        raise
    # NumPy answers a damaged file with a dozen kinds of errors, tokenize's among them.
    except Exception as error:
        reason = " ".join(str(error).split())
        if "allow_pickle" in reason or "Python objects" in reason:
            raise UserError(
                f"{path} holds pickled Python objects, which are not read since they "
                "can run code; save plain numbers"
            ) from None
        raise UserError(
            f"{path} is damaged ({reason or type(error).__name__}); write it again"
        ) from None
    raise UserError(f"{path} holds {len(found.files)} arrays; save the one that counts")


def matrix_evaluation(given: argparse.Namespace) -> Evaluation:
    """What is scored by `--similarity`."""
    similarity = read_array(given.similarity)
    right = read_array(given.video_of_text) if given.video_of_text else None
    ties = given.ties or "mean"
    # The file is what the user knows; the metrics do not.
    try:
        figures = retrieval_metrics(similarity, right, ties)
    except UserError as error:
        raise UserError(f"{given.similarity}: {error}") from None
    texts, videos = similarity.shape
    return Evaluation(
        title=str(given.similarity),
        similarity=similarity,
        video_of_text=np.arange(texts) if right is None else right,
        ties=ties,
        results={"queries": texts, "videos": videos, **figures},
        temperature=given.dsl_temperature,
        bank=read_array(given.bank) if given.bank else None,
        video_bank=read_array(given.video_bank) if given.video_bank else None,
        beta=given.beta,
        resamples=given.resamples,
        seed=given.seed,
    )


def model_evaluation(given: argparse.Namespace) -> Evaluation:
    """What is scored by `--checkpoint`."""
    folder = RunFolder(given.checkpoint)
    config = folder.read_config() if folder.is_run() else {}
    dataset = given.dataset or config.get("dataset")
    if dataset is None:
        raise UserError(f"{given.checkpoint} is no run: give --dataset=NAME")
    row, split = find_dataset(dataset), given.split or "test"
    # Imported late, so that a typing mistake is answered without a wait.
    from vop_jax.embedder import Embedder, score
    from vop_jax.model import load
    from vop_jax.run import load_data
    from vop_jax.sharding import MeshConfig, make_mesh
    from vop_jax.towers import ComputeConfig

    model = load(given.checkpoint, tuned=given.tuned)
    num_frames = given.num_frames or config.get("num_frames")
    if num_frames is None:
        num_frames = model.num_frames if model.metadata else row.num_frames
    model.check_frames(num_frames)
    wanted = 10_000 if given.bank_captions is None else given.bank_captions
    # A split is no bank for itself.
    banked = wanted > 0 and split != "train"
    data = load_data(
        dataset,
        given.data_dir or config.get("data_dir", "data"),
        num_frames=num_frames,
        image_size=model.image_size,
        tokenize=model.tokenizer,
        splits=[split, "train"] if banked else [split],
        **{
            name: config[name]
            for name in ("holdout", "train_on_holdout", "memory_gb")
            if name in config
        },
    )
    warn_of_difference(folder.read_results().get("data"), data.provenance)
    # A run is scored in the precision it was scored in before.
    compute = ComputeConfig(dtype=config.get("compute", {}).get("dtype", "float32"))
    embedder = Embedder(model.encoder.clone(compute=compute), make_mesh(MeshConfig()))
    batch_size = given.batch_size or config.get("evaluation_batch_size", 64)
    videos = embedder.videos(model.variables, data.splits[split], batch_size)
    similarity = similarity_of(embedder.texts(model.variables, data.ids[split]), videos)
    held = isinstance(similarity, np.ndarray)
    if not held:
        warn("the similarity is too large to be held: no corrections for hubs")
        if given.similarity_out:
            raise UserError("--similarity_out: this similarity is too large to be held")
    bank = None
    if banked and held:
        ids = data.ids["train"]
        some = np.random.default_rng(given.seed).permutation(len(ids))[:wanted]
        bank = embedder.texts(model.variables, ids[np.sort(some)]) @ videos.T
    ties = given.ties or config.get("ties", "mean")
    method = model.metadata.get("method", config.get("method", "zero_shot"))
    figures = score(similarity, data.splits[split], ties)
    scale = float(np.exp(model.variables["params"]["logit_scale"]))
    return Evaluation(
        title=f"{given.checkpoint}, {dataset}, {split} split",
        similarity=similarity,
        video_of_text=data.splits[split].video_of_caption,
        ties=ties,
        results={
            **{"method": method, "dataset": dataset},
            **figures,
            "left_out": left_out(data.provenance, split),
            "data": data.provenance,
        },
        texts=data.splits[split].captions,
        video_ids=data.splits[split].video_ids,
        temperature=(given.dsl_temperature or 1 / scale) if held else None,
        bank=bank,
        beta=given.beta,
        resamples=given.resamples,
        seed=given.seed,
    )


@command
def main(arguments: Sequence[str] | None = None) -> None:
    """Parses the flags, scores and writes."""
    given = _parse(arguments)
    start_up()
    build = matrix_evaluation if given.checkpoint is None else model_evaluation
    evaluation = build(given)
    if given.similarity_out:
        file = io.BytesIO()
        np.save(file, evaluation.similarity)
        write_atomically(given.similarity_out, file.getvalue())
    for path, content in (
        (given.json, evaluation.as_json),
        (given.ranks, evaluation.ranks_as_json),
    ):
        if path:
            write_atomically(path, json.dumps(content(), indent=1))
    evaluation.show()
    for name in _OUTPUTS:
        if getattr(given, name):
            say(f"{name}: {getattr(given, name)}")


if __name__ == "__main__":
    main()
