"""Scores a trained run with mteb's runner, beside the metrics of `evaluate`.

    pip install 'vop-jax[mteb]'
    python examples/score_with_mteb.py runs/demo_vop_fc

The test split becomes two retrieval tasks of mteb, from text to video and back: each
video is written as a file without loss and goes through mteb's loader, its choice of
frames, its ranking and its scorer.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import av
import mteb
import numpy as np
from datasets import Dataset, Video
from mteb.abstasks.retrieval import AbsTaskRetrieval
from mteb.abstasks.task_metadata import TaskMetadata

import vop_jax
from data_pipelines.console.errors import UserError, command
from data_pipelines.console.terminal import quiet_libraries
from vop_jax.runtime.run_folder import RunFolder
from vop_jax.weights.frame_recipes import resizing_of

if TYPE_CHECKING:
    from data_pipelines.feeding.split import Split

# The names of one metric here and in mteb, which has fractions rounded to 5 digits.
METRICS = {
    "R@1": "recall_at_1",
    "R@5": "recall_at_5",
    "R@10": "recall_at_10",
    "nDCG@10": "ndcg_at_10",
}


def read_split(model: vop_jax.Model, config: dict[str, Any]) -> "Split":
    """The test split, as the run read it."""
    # TensorFlow is imported with it, after the libraries were quieted.
    from data_pipelines.feeding.loading import load_data

    data = load_data(
        *(config["dataset"], config["data_dir"]),
        num_frames=config["num_frames"],
        image_size=model.image_size,
        resizing=resizing_of(model.backbone.size),
        tokenize=model.tokenizer,
        splits=["test"],
    )
    return data.splits["test"]


def films(split: "Split", folder: Path) -> Iterator[str]:
    """Writes each video of a split as a file that decodes to the same pixels."""
    from data_pipelines.feeding.feed import evaluation_batches

    for place, batch in enumerate(evaluation_batches(split, 1)):
        path = folder / f"{place}.mp4"
        with av.open(str(path), "w") as container:
            stream = container.add_stream("libx264rgb", rate=4)
            _, stream.height, stream.width, _ = batch["frames"][0].shape
            stream.pix_fmt, stream.options = "rgb24", {"qp": "0"}
            for pixels in batch["frames"][0]:
                frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(pixels))
                container.mux(stream.encode(frame))
            container.mux(stream.encode(None))
        yield str(path)


def tasks(split: "Split", files: list[str]) -> dict[str, AbsTaskRetrieval]:
    """The split as tasks of mteb, by direction; every video has one caption."""
    if len(split.captions) != len(split.video_ids):
        raise SystemExit("error: a video has several captions; use another data set")
    ids = [str(i) for i in range(len(files))]
    texts = Dataset.from_dict({"id": ids, "text": split.captions})
    videos = Dataset.from_dict({"id": ids, "video": files})
    videos = videos.cast_column("video", Video(decode=False))
    found = {}
    for way, queries, corpus in (("t2v", texts, videos), ("v2t", videos, texts)):
        about = TaskMetadata(
            name=f"Own{way.upper()}Retrieval",
            description="A test split of vop_jax.",
            dataset={"path": "none", "revision": "1"},
            type="Any2AnyRetrieval",
            category=way,
            modalities=["text", "video"],
            eval_splits=["test"],
            eval_langs=["eng-Latn"],
            main_score="recall_at_1",
        )
        task = type(about.name, (AbsTaskRetrieval,), {"metadata": about})()
        right = {i: {i: 1} for i in ids}
        rows = {"queries": queries, "corpus": corpus, "relevant_docs": right}
        task.dataset = {"default": {"test": rows | {"top_ranked": None}}}
        task.data_loaded = True
        found[way] = task
    return found


def scores(
    encoder: Any, found: dict[str, AbsTaskRetrieval], rankings: Path | None = None
) -> dict[str, dict[str, float]]:
    """The metrics that mteb's runner gives, in percent, by direction.

    Args:
        encoder: of `vop_jax.mteb_encoder`.
        found: of `tasks`.
        rankings: a folder in which mteb leaves what it scores.
    """
    done = mteb.evaluate(
        encoder,
        found.values(),
        cache=None,
        prediction_folder=rankings,
        show_progress_bar=False,
    )
    return {
        way: {name: 100 * result.scores["test"][0][METRICS[name]] for name in METRICS}
        for way, result in zip(found, done.task_results, strict=True)
    }


@command
def main() -> None:
    """Prints both tables beside each other."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run", help="folder of a run, such as runs/demo_vop_fc")
    run = parser.parse_args().run
    quiet_libraries()
    if not RunFolder(run).is_run():
        raise UserError(f"{run} is not the folder of a run; train one first")
    config = RunFolder(run).read_config()
    model = vop_jax.load(run, dtype=config["compute"]["dtype"])
    encoder = vop_jax.mteb_encoder(model, num_frames=config["num_frames"])
    with tempfile.TemporaryDirectory() as made:
        metrics = Path(made) / "metrics.json"
        command = [sys.executable, "-m", "vop_jax.evaluate", f"--checkpoint={run}"]
        subprocess.run([*command, f"--json={metrics}"], check=True)
        ours = json.loads(metrics.read_text())
        split = read_split(model, config)
        theirs = scores(encoder, tasks(split, list(films(split, Path(made)))))
    print(f"{'':12}{'evaluate':>10}{'mteb':>10}")
    for way, found in theirs.items():
        for name, value in found.items():
            print(f"{way} {name:8}{ours[way][name]:>10.3f}{value:>10.3f}")


if __name__ == "__main__":
    main()
