"""The models of a run, scored on its splits."""

from typing import Any

import numpy as np
from jaxtyping import Float

from data_pipelines.preparing.provenance import left_out
from vop_jax.devices.mesh import put_tree
from vop_jax.model.dual_encoder import DualEncoder
from vop_jax.model.embedder import Embedder
from vop_jax.scoring.bootstrap import Ranking
from vop_jax.scoring.counts import Counts
from vop_jax.scoring.directions import directions
from vop_jax.scoring.metrics import retrieval_counts
from vop_jax.scoring.results import score
from vop_jax.scoring.similarity import Similarity
from vop_jax.training.run import Run


class Scores:
    """Scores models on the splits of a run, and holds the results.

    Attributes:
        results: of the test split, by the model's name.
        rankings: the ranks behind them, by the model's name and the direction.

    Args:
        run: whose data, devices and settings are used.
    """

    def __init__(self, run: Run):
        self._run = run
        self.results: dict[str, dict[str, Any]] = {}
        self.rankings: dict[str, dict[str, Ranking]] = {}
        # Cached, so that each model compiles once for all splits and all validations.
        self._embedders: dict[DualEncoder, Embedder] = {}

    def similarity(
        self, model: DualEncoder, variables: Any, split: str, frame: int | None = None
    ) -> Float[np.ndarray, "C V"] | Similarity:
        """The similarity of a split's captions to its videos, `[C, V]`.

        Args:
            model: the run's model, or CLIP without prompts.
            variables: of the model.
            split: name of the split.
            frame: the only frame of each video that is seen; None means all.
        """
        if model not in self._embedders:
            self._embedders[model] = Embedder(model, self._run.mesh)
        return self._embedders[model].similarity(
            variables,
            self._run.data.splits[split],
            self._run.config.evaluation_batch_size,
            frame,
        )

    def metrics(
        self,
        similarity: Float[np.ndarray, "C V"] | Similarity,
        split: str,
        counts: dict[str, Counts] | None = None,
    ) -> dict[str, Any]:
        """The metrics of a similarity on a split; `counts` are its own, if known."""
        run = self._run
        return score(similarity, run.data.splits[split], run.config.ties, counts)

    def entry(
        self,
        name: str,
        similarity: Float[np.ndarray, "C V"] | Similarity,
        trained: int,
        split: str = "test",
        counts: dict[str, Counts] | None = None,
    ) -> dict[str, Any]:
        """A model's entry of `results.json`.

        Args:
            name: of its method.
            similarity: on the split.
            trained: number of trained parameters.
            split: name of the split.
            counts: of the similarity, if they are known.
        """
        run = self._run
        return {
            "method": name,
            "dataset": run.config.dataset,
            "dtype": run.config.compute.dtype,
            **self.metrics(similarity, split, counts),
            "left_out": left_out(run.data.provenance, split),
            "trainable_parameters": trained,
        }

    def record(
        self,
        name: str,
        similarity: Float[np.ndarray, "C V"] | Similarity,
        trained: int,
    ) -> None:
        """Scores a similarity on the test split and stores the result under a name."""
        right = self._run.data.splits["test"].video_of_caption
        counts = retrieval_counts(similarity, right)
        self.results[name] = self.entry(name, similarity, trained, counts=counts)
        ways = directions(counts, right, self._run.config.ties)
        self.rankings[name] = {
            way: Ranking(found.ranks, found.video) for way, found in ways.items()
        }

    def evaluate_untuned(self) -> Float[np.ndarray, "C V"] | Similarity:
        """Scores CLIP without tuning; on single frames too if the data tests order.

        Returns:
            Its similarity on the test split, from all frames.
        """
        run = self._run
        model = DualEncoder(run.backbone.size, compute=run.config.compute)
        variables = {"params": put_tree(run.mesh, run.backbone.params)}
        similarity = self.similarity(model, variables, "test")
        self.record("zero_shot", similarity, 0)
        if "twins" in self.results["zero_shot"]:
            for name, frame in (("first_frame", 0), ("last_frame", -1)):
                alone = self.similarity(model, variables, "test", frame)
                self.record(name, alone, 0)
        return similarity
