"""The model card, `README.md`: what a shared model is, how good, and how to load it.

Its first part is YAML that the Hugging Face hub reads. What is not known is left out.
"""

import dataclasses
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from data_pipelines.console.errors import UserError
from data_pipelines.files.json_files import described, shown
from data_pipelines.preparing.provenance import Provenance
from vop_jax.model.methods import METHODS
from vop_jax.runtime.run_folder import RunFolder, flat_fields
from vop_jax.scoring.chance import remark_on
from vop_jax.sharing.results import Scored
from vop_jax.weights.locate import EMBEDDED
from vop_jax.weights.tuned_config import HERE, BackboneOf

_LICENSE = re.compile(r"[a-z0-9][a-z0-9.-]{1,60}")
_TASK = "text-to-video-retrieval"
_WAYS = {"t2v": "text to video", "v2t": "video to text"}
# Fields of a run's configuration that a card states.
_TRAINING = (
    *("dataset", "epochs", "epoch_of", "batch_size", "optimizer.learning_rate"),
    *("optimizer.weight_decay", "loss", "seed", "num_frames"),
)
CITATION = """\
@inproceedings{huang2023vop,
  title = {VoP: Text-Video Co-operative Prompt Tuning for Cross-Modal Retrieval},
  author = {Huang, Siteng and Gong, Biao and Pan, Yulin and Jiang, Jianwen and
            Lv, Yiliang and Li, Yuyuan and Wang, Donglin},
  booktitle = {IEEE/CVF Conference on Computer Vision and Pattern Recognition (CVPR)},
  year = {2023},
  note = {arXiv:2211.12764},
}
@software{vop_jax,
  title = {vop_jax: text-video retrieval by prompt-tuning a frozen CLIP, in JAX},
  author = {{The vop_jax authors}},
}"""


@dataclasses.dataclass(frozen=True)
class Card:
    """What a card says.

    Attributes:
        name: what `vop_jax.load` takes, without the folder.
        folder: in the repository; empty for none.
        backbone: as `config.json` names it.
        carried: whether the backbone's weights are in the repository.
        method: a row of the method table, or another project's name of it.
        num_frames: F.
        parameters: how many were tuned.
        license: of the tuned parameters; None where none is given.
        results: metrics.
        run: folder of the run; empty if the model is of none.
    """

    name: str
    folder: str
    backbone: BackboneOf
    carried: bool
    method: str
    num_frames: int
    parameters: int
    license: str | None
    results: Sequence[Scored]
    run: str

    def check(self) -> None:
        """Checks what the user has given.

        Raises:
            UserError: the license has not the form of one.
        """
        given = self.license
        if given is None or (isinstance(given, str) and _LICENSE.fullmatch(given)):
            return
        raise UserError(
            f"license is {shown(given)}; pass the hub's abbreviation of one, such as "
            "'apache-2.0' or 'cc-by-nc-4.0'"
        )

    @property
    def place(self) -> str:
        """What `vop_jax.load` takes."""
        return f"{self.name}/{self.folder}" if self.folder else self.name

    def text(self) -> str:
        """The card of one model."""
        about = METHODS[self.method].about if self.method in METHODS else ""
        lines = [
            f"# {self.place}",
            "",
            "Text-video retrieval with a frozen CLIP, tuned by "
            f"vop_jax with the method `{self.method}`{f': {about}' if about else ''}.",
            *self._results(),
            *_how_to_load(self.place),
            *self._content(),
            *self._training(),
            *self._limits(),
            *_citation(),
        ]
        return self._front(self.results) + "\n".join(lines) + "\n"

    def _front(self, results: Sequence[Scored]) -> str:
        """The YAML."""
        # Imported late: only who shares a model needs the hub.
        from huggingface_hub import EvalResult, ModelCardData

        found = [
            EvalResult(
                task_type=_TASK,
                task_name="Text-video retrieval",
                dataset_type=scored.dataset,
                dataset_name=scored.dataset,
                dataset_split=scored.split,
                metric_type=f"{way}_{name}",
                metric_name=f"{name}, {_WAYS[way]}",
                metric_value=value,
            )
            for scored in results
            for way, metrics in scored.metrics.items()
            for name, value in metrics.items()
        ]
        datasets = sorted({x.dataset for x in self.results} | {*self._datasets()})
        named = self.backbone["name"]
        values = ModelCardData(
            library_name="vop_jax",
            base_model=None if named in (HERE, *EMBEDDED) else named,
            license=self.license,
            datasets=datasets or None,
            metrics=["recall"] if self.results else None,
            tags=["text-video-retrieval", "prompt-tuning", "clip"],
            eval_results=found or None,
            model_name=self.place if found else None,
        )
        return f"---\n{values.to_yaml()}\n---\n\n"

    def _datasets(self) -> Iterator[str]:
        dataset = self._config().get("dataset")
        if isinstance(dataset, str):
            yield dataset

    def _results(self) -> Iterator[str]:
        if not self.results:
            return
        names = list(self.results[0].metrics["t2v"])
        yield from ("", "## Results", "")
        yield f"| data set, split | direction | {' | '.join(names)} |"
        yield f"|---|---|{'---|' * len(names)}"
        for scored in self.results:
            for way, metrics in scored.metrics.items():
                ends = scored.intervals.get(way, {})
                cells = (_cell(metrics.get(x), ends.get(x)) for x in names)
                where = f"`{scored.dataset}`, {scored.split}"
                yield f"| {where} | {_WAYS[way]} | {' | '.join(cells)} |"
        yield ""
        yield "R@k is the percentage of queries whose correct answer is among the first"
        yield "k; MdR and MnR are the median and the mean rank; nDCG@10 is the mean of"
        yield "1 / log2(1 + rank), 0 behind rank 10, in percent."
        for scored in self.results:
            yield ""
            yield f"`{scored.dataset}`, {scored.split}: {_conditions(scored)}."

    def _content(self) -> Iterator[str]:
        named = self.backbone
        name, revision = named["name"], named.get("revision", "")
        yield from ("", "## What is in it", "")
        yield (
            f"- `tuned.safetensors`: {self.parameters:,} tuned parameters, float32, "
            f"for {self.num_frames} frames per video."
        )
        if revision:
            link = f"[{name}](https://huggingface.co/{name}/tree/{revision})"
            yield f"- Not in it, but fetched: the backbone {link}, commit `{revision}`."
        elif name in EMBEDDED:
            yield "- The backbone is that of the demo, which comes with vop_jax."
        else:
            where = "at the top of this repository" if self.folder else "beside it"
            yield f"- The weights of the backbone, {where}: `model.safetensors`."
        yield f"- SHA-256 of the backbone's weights, checked: `{named['sha256']}`."

    def _training(self) -> Iterator[str]:
        yield from ("", "## Training", "")
        config = self._config()
        if not config:
            yield "Not stated: the model was not loaded from the folder of its run."
            return
        yield from ("| setting | value |", "|---|---|")
        for name in _TRAINING:
            if name in config:
                yield f"| `{name}` | `{shown(config[name], str)}` |"
        stated = RunFolder(self.run).read_results().get("data", {})
        data = described(stated, Provenance, f"{self.run}: results.json: data")
        for split, made in data.get("splits", {}).items():
            counts = f"{made['videos']:,} videos, {made['captions']:,} captions"
            yield f"| {split} split | {counts}, sha256 `{made['sha256']}` |"

    def _config(self) -> dict[str, Any]:
        if not self.run or not Path(self.run).is_dir():
            return {}
        return flat_fields(RunFolder(self.run).read_config())

    def _limits(self) -> Iterator[str]:
        trained = ", ".join(f"`{x}`" for x in self._datasets())
        yield from ("", "## Limits", "")
        yield f"- {self.num_frames} frames per video are seen, and no sound is heard."
        if trained:
            yield f"- Tuned on captions of {trained}; on other videos, and other ways"
            yield "  to describe them, it may rank worse and was not measured."
        yield "- What the backbone does not know, tuning does not add. Its biases and"
        yield "  the terms of its license stay."
        yield "- Similarities rank candidates. They are not probabilities."
        if self.license is None:
            yield "- No license of the tuned parameters is stated; ask who shares them."


def collection_card(card: Card, folders: Sequence[str]) -> str:
    """The card at the top of a repository of several models.

    Args:
        card: of one of them.
        folders: of all.
    """
    top = dataclasses.replace(card, folder="", license=None, results=(), run="")
    lines = [
        f"# {card.name}",
        "",
        "Models for text-video retrieval on one frozen CLIP, tuned by vop_jax. Each",
        "has a folder and a card:",
        "",
        *(f"- [{x}]({x}/README.md): `{_load(f'{card.name}/{x}')}`" for x in folders),
        *_citation(),
    ]
    return top._front(()) + "\n".join(lines) + "\n"


def _how_to_load(place: str) -> Iterator[str]:
    yield from ("", "## How to load", "", "```python", "import vop_jax", "")
    yield f"model = {_load(place)}"
    yield 'texts = model.encode_texts(["a dog catches a ball"])'
    yield 'videos = model.encode_videos(["first.mp4", "second.mp4"])'
    yield "similarity = texts @ videos.T"
    yield "```"


def _load(place: str) -> str:
    return f'vop_jax.load("{place}")'


def _citation() -> Iterator[str]:
    yield from ("", "## Citation", "", "```bibtex", *CITATION.splitlines(), "```")


def _cell(value: float | None, ends: Sequence[float] | None) -> str:
    if value is None:
        return ""
    return f"{value:.1f} [{ends[0]:.1f}, {ends[1]:.1f}]" if ends else f"{value:.1f}"


def _conditions(scored: Scored) -> str:
    """How the metrics of a split came about."""
    said = [f"{scored.queries:,} captions, {scored.videos:,} videos"]
    if remark := remark_on(scored.videos):
        said.append(remark)
    if scored.ties:
        said.append(f"ties count as `{scored.ties}`")
    if scored.intervals:
        said.append(
            f"{scored.level}% bootstrap intervals over videos, {scored.resamples:,} "
            "resamples"
        )
    if scored.left_out:
        said.append(f"{scored.left_out:,} videos are left out, for want of frames")
    return "; ".join(said)
