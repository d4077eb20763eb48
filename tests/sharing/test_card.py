"""The model card: its YAML, its results, what it does not know."""

import json
import re
from pathlib import Path

import pytest
from huggingface_hub import ModelCard
from tuned_models import tuned_model

import vop_jax
from data_pipelines.console.errors import UserError
from vop_jax.scoring.evaluation import Evaluation
from vop_jax.scoring.metrics import by_direction, retrieval_counts
from vop_jax.sharing.card import CITATION

ROOT = Path(__file__).parents[2]
METRICS = {"R@1": 40.0, "R@5": 70.5, "R@10": 80.25, "MdR": 2.0, "MnR": 13.04}
RESULTS = {
    **{"method": "vop", "dataset": "msrvtt_9k", "split": "test", "ties": "mean"},
    **{"queries": 1000, "videos": 990, "left_out": 10, "t2v": METRICS, "v2t": METRICS},
}
DATA = {"videos": 9_000, "captions": 180_000, "left_out": 0, "sha256": "ab" * 32}


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return tuned_model(tmp_path_factory.mktemp("model") / "tuned.safetensors")


def card_of(model, folder, **given):
    model.save_pretrained(folder, **given)
    return (folder / "README.md").read_text()


def written(path, values):
    path.write_text(json.dumps(values))
    return path


def test_what_is_not_known_is_left_out(model, tmp_path):
    data = ModelCard(card_of(model, tmp_path / "out")).data.to_dict()
    assert set(data) == {"library_name", "tags"}
    assert data["library_name"] == "vop_jax"
    text = (tmp_path / "out/README.md").read_text()
    assert "## Results" not in text
    assert "Not stated: the model was not loaded from the folder of its run." in text
    assert "No license of the tuned parameters is stated" in text


def test_results_and_their_intervals(model, tmp_path):
    ends = {name: [value - 1, value + 1] for name, value in METRICS.items()}
    intervals = {"level": 95, "resamples": 500, "seed": 0, "t2v": ends, "v2t": ends}
    given = [
        written(tmp_path / "a.json", {**RESULTS, "intervals": intervals}),
        written(tmp_path / "b.json", {**RESULTS, "dataset": "msvd"}),
    ]
    text = card_of(model, tmp_path / "out", results=given, license="cc-by-4.0")
    card = ModelCard(text)
    assert card.data.license == "cc-by-4.0"
    assert card.data.datasets == ["msrvtt_9k", "msvd"]
    stated = {
        (x.dataset_type, x.dataset_split, x.metric_type): x.metric_value
        for x in card.data.eval_results
    }
    assert stated == {
        (dataset, "test", f"{way}_{name}"): value
        for dataset in ("msrvtt_9k", "msvd")
        for way in ("t2v", "v2t")
        for name, value in METRICS.items()
    }
    assert "| `msrvtt_9k`, test | text to video | 40.0 [39.0, 41.0] | 70.5 [" in text
    assert "| `msvd`, test | video to text | 40.0 | 70.5 | 80.2 | 2.0 | 13.0 |" in text
    assert (
        "`msrvtt_9k`, test: 1,000 captions, 990 videos; ties count as `mean`; 95% "
        "bootstrap intervals over videos, 500 resamples; 10 videos are left out" in text
    )


def test_results_of_a_few_videos_are_called_so(model, tmp_path):
    few = RESULTS | {"queries": 2, "videos": 2, "left_out": 0}
    given = [written(tmp_path / "few.json", few)]
    text = card_of(model, tmp_path / "few", results=given)
    assert "2 captions, 2 videos; with so few videos the metrics say little" in text
    given = [written(tmp_path / "many.json", RESULTS)]
    assert "so few" not in card_of(model, tmp_path / "many", results=given)


def test_what_evaluate_writes_is_read(model, tmp_path):
    import numpy as np

    similarity = np.random.default_rng(0).normal(size=(20, 20)).astype(np.float32)
    counts = retrieval_counts(similarity)
    results = {**RESULTS, **by_direction(counts, "mean")}
    evaluation = Evaluation("", similarity, np.arange(20), counts, results)
    path = written(tmp_path / "metrics.json", evaluation.as_json())
    text = card_of(model, tmp_path / "out", results=path)
    low, high = evaluation.intervals["t2v"]["R@1"]
    value = results["t2v"]["R@1"]
    assert f"| {value:.1f} [{low:.1f}, {high:.1f}] |" in text


def test_a_run_says_how_it_was_trained(tmp_path):
    run = tmp_path / "run"
    run.mkdir()
    config = {
        **{"method": "vop", "dataset": "msrvtt_9k", "backbone": "demo", "epochs": 5},
        **{"seed": 3, "optimizer": {"learning_rate": 0.002}, "data_dir": "/home/me"},
    }
    written(run / "config.json", config)
    written(run / "results.json", {**RESULTS, "data": {"splits": {"train": DATA}}})
    tuned = tuned_model(run / "tuned.safetensors", seed=2)
    text = card_of(vop_jax.load(run), tmp_path / "out")
    assert ModelCard(text).data.datasets == ["msrvtt_9k"]
    assert "| `optimizer.learning_rate` | `0.002` |" in text
    assert (
        f"| train split | 9,000 videos, 180,000 captions, sha256 `{'ab' * 32}` |"
        in text
    )
    assert "| `msrvtt_9k`, test | text to video | 40.0 |" in text
    assert "Tuned on captions of `msrvtt_9k`" in text
    # What a machine calls its folders is nobody's business.
    assert "/home/me" not in text
    # The same parameters without their run, and others in the run's place.
    assert "Not stated" in card_of(tuned, tmp_path / "without")
    (tmp_path / "other").mkdir()
    other = tuned_model(tmp_path / "other/tuned.safetensors", seed=3)
    assert not other.run
    changed = vop_jax.load(run, tuned=tmp_path / "other/tuned.safetensors")
    assert "Not stated" in card_of(changed, tmp_path / "changed")


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"t2v": None}, "t2v"),
        ({"dataset": "a | b"}, "dataset"),
        ({"dataset": "x\n---\nlicense: mit"}, "dataset"),
        ({"intervals": {"level": 95}}, "intervals"),
    ],
)
def test_files_that_hold_no_results(model, tmp_path, changes, says):
    path = written(tmp_path / "x.json", {**RESULTS, **changes})
    with pytest.raises(UserError, match=says):
        model.save_pretrained(tmp_path / "out", results=path)
    with pytest.raises(UserError, match="results are a path or a list of paths"):
        model.save_pretrained(tmp_path / "out", results=3)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("license", ["", "MIT License", "mit\ntags: x", 3, "-x"])
def test_a_license_is_a_word(model, tmp_path, license):
    with pytest.raises(UserError, match="license is"):
        model.save_pretrained(tmp_path / "out", license=license)


def test_the_citation_is_that_of_the_project():
    cited = (ROOT / "CITATION.cff").read_text()
    for title in re.findall(r'title: "(.*)"', cited):
        assert f"title = {{{title}}}" in CITATION
    names = re.findall(r"family-names: (\w+)\n +given-names: (\w+)", cited)
    joined = " and ".join(f"{family}, {given}" for family, given in names)
    assert joined in re.sub(r"\s+", " ", CITATION)
    (year,) = re.findall(r"year: (\d+)", cited)
    assert f"year = {{{year}}}" in CITATION
    assert re.findall(r"arXiv:[\d.]+", cited) == re.findall(r"arXiv:[\d.]+", CITATION)
