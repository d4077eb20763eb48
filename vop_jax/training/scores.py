"""The models of a run, scored on its splits."""

from typing import Any

import numpy as np
from jaxtyping import Float

from data_pipelines.preparing.provenance import left_out
from vop_jax.devices.mesh import put_tree
from vop_jax.model.dual_encoder import DualEncoder
from vop_jax.model.embedder import Embedder
from vop_jax.scoring.results import score
from vop_jax.scoring.similarity import Similarity
from vop_jax.training.run import Run


class Scores:
    """Scores models on the splits of a run, and holds the results.

    Attributes:
        results: of the test split, by the model's name.

    Args:
        run: whose data, devices and settings are used.
    """

    def __init__(self, run: Run):
        self._run = run
        self.results: dict[str, dict[str, Any]] = {}
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
        self, similarity: Float[np.ndarray, "C V"] | Similarity, split: str
    ) -> dict[str, Any]:
        """The metrics of a similarity on a split."""
        run = self._run
        return score(similarity, run.data.splits[split], run.config.ties)

    def entry(
        self,
        name: str,
        similarity: Float[np.ndarray, "C V"] | Similarity,
        trained: int,
        split: str = "test",
    ) -> dict[str, Any]:
        """A model's entry of `results.json`.

        Args:
            name: of its method.
            similarity: on the split.
            trained: number of trained parameters.
            split: name of the split.
        """
        run = self._run
        return {
            "method": name,
            "dataset": run.config.dataset,
            "dtype": run.config.compute.dtype,
            **self.metrics(similarity, split),
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
        self.results[name] = self.entry(name, similarity, trained)

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
