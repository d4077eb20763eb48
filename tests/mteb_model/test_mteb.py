"""mteb's own runner gives the metrics of `evaluate`."""

import json
import runpy
import warnings
from pathlib import Path

import numpy as np
import pytest
from small_job import config, data_dir, small_world  # noqa: F401
from written_films import decode_all, write

import vop_jax
from data_pipelines.console.errors import UserError
from vop_jax import evaluate
from vop_jax.runtime.run_folder import RunFolder
from vop_jax.training.job import run_job

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]
mteb = pytest.importorskip("mteb", reason="is in requirements-mteb.txt")

EXAMPLE = Path(__file__).parents[2] / "examples" / "score_with_mteb.py"
SIZE = 48
# What mteb's fractions are rounded to, in percent.
ROUNDED = 0.5e-3 + 1e-9


@pytest.fixture(scope="module")
def example():
    return runpy.run_path(str(EXAMPLE))


@pytest.fixture(scope="module")
def run(data_dir, tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "run"
    run_job(config(data_dir, epochs=1), RunFolder(folder))
    return folder


@pytest.fixture(scope="module")
def model(run):
    return vop_jax.load(run)


@pytest.fixture(scope="module")
def split(example, model, run):
    return example["read_split"](model, RunFolder(run).read_config())


@pytest.fixture(scope="module")
def files(example, split, tmp_path_factory):
    return list(example["films"](split, tmp_path_factory.mktemp("films")))


@pytest.fixture(scope="module")
def ours(run):
    given = ["--bank_captions=0", "--resamples=1"]
    found = evaluate.model_evaluation(
        evaluate._parse([f"--checkpoint={run}", *given])
    ).as_json()
    return {way: found[way] for way in ("t2v", "v2t")}


def rows_of(column, values, workers=0):
    """A loader as mteb makes them, of a few rows."""
    from datasets import Dataset
    from mteb._create_dataloaders import _custom_collate_fn
    from torch.utils.data import DataLoader

    rows = Dataset.from_dict({column: values})
    form = {"batch_size": 2, "num_workers": workers}
    return DataLoader(rows, collate_fn=_custom_collate_fn, **form)


def encoded(encoder, loader):
    class Task:
        name = "a task"

    return encoder.encode(loader, task_metadata=Task, hf_split="", hf_subset="")


def test_every_common_metric_is_that_of_evaluate(
    example, model, split, files, ours, tmp_path
):
    tasks = example["tasks"](split, files)
    theirs = example["scores"](vop_jax.mteb_encoder(model), tasks, tmp_path)
    names = example["METRICS"]
    assert set(names) == {x for x in ours["t2v"] if x not in ("MdR", "MnR")}
    for way in ours:
        for name in names:
            assert theirs[way][name] == pytest.approx(ours[way][name], abs=ROUNDED)
            print(f"{way} {name:8}{ours[way][name]:10.4f}{theirs[way][name]:10.4f}")
        # No model that tells nothing would show a difference.
        assert 0 < ours[way]["R@10"] < 100


def test_unrounded_metrics_of_mteb_s_rankings_are_the_same(
    example, model, split, files, ours, tmp_path
):
    """By the scorer that mteb calls, before it rounds to 5 digits."""
    import pytrec_eval

    tasks = example["tasks"](split, files)
    example["scores"](vop_jax.mteb_encoder(model), tasks, tmp_path)
    for way, task in tasks.items():
        (file,) = tmp_path.rglob(f"{task.metadata.name}*.json")
        ranking = json.loads(file.read_text())["default"]["test"]
        right = task.dataset["default"]["test"]["relevant_docs"]
        wanted = {"recall.1,5,10", "ndcg_cut.10"}
        each = pytrec_eval.RelevanceEvaluator(right, wanted).evaluate(ranking)
        assert len(each) == len(split.video_ids)
        for ours_name, name in {
            **{f"R@{k}": f"recall_{k}" for k in (1, 5, 10)},
            "nDCG@10": "ndcg_cut_10",
        }.items():
            mean = np.mean([x[name] for x in each.values()])
            assert abs(mean - ours[way][ours_name] / 100) < 1e-6, (way, name)


def test_films_in_another_order_have_other_metrics(example, model, split, files, ours):
    """Negative control: the metrics are of these films and these captions."""
    tasks = example["tasks"](split, files[1:] + files[:1])
    theirs = example["scores"](vop_jax.mteb_encoder(model), tasks)
    assert theirs["t2v"]["R@10"] < ours["t2v"]["R@10"] - 5


def test_frames_come_by_count_or_by_rate_as_mteb_chooses_them(model, tmp_path):
    path = write(tmp_path / "film.mp4", count=50, size=(SIZE, SIZE))
    frames = np.stack(decode_all(path))
    stored = [{"bytes": path.read_bytes(), "path": "film.mp4"}] * 3
    for options, count in (
        ({"num_frames": 7}, 7),
        ({"fps": 3, "max_frames": 32}, 6),
        ({"fps": 3, "max_frames": 4}, 4),
        ({"fps": 100, "max_frames": 64}, 50),
    ):
        encoder = vop_jax.mteb_encoder(model, **options)
        found = encoded(encoder, rows_of("video", stored))
        # mteb's rule: from the first frame to the last, at equal distances.
        chosen = np.linspace(0, 49, count).round().astype(int)
        expected = model.encode_videos(frames[None, chosen])
        np.testing.assert_allclose(found, expected.repeat(3, 0), atol=1e-6)
        assert encoder.mteb_model_meta.experiment_kwargs == options


def test_a_column_of_videos_is_decoded_here(model, tmp_path):
    from datasets import Dataset, Video

    path = write(tmp_path / "film.mp4", count=9, size=(SIZE, SIZE))
    loader = rows_of("video", [str(path)])
    rows = Dataset.from_dict({"video": [str(path)]}).cast_column("video", Video())
    assert rows.features["video"].decode
    typed = type(loader)(rows, batch_size=2)
    encoder = vop_jax.mteb_encoder(model)
    one, two = encoded(encoder, loader), encoded(encoder, typed)
    np.testing.assert_array_equal(one, two)


def test_processes_of_the_loader_decode_without_a_fork(model, tmp_path):
    films = [str(write(tmp_path / f"{i}.mp4", count=9 + i)) for i in range(4)]
    encoder = vop_jax.mteb_encoder(model)
    alone = encoded(encoder, rows_of("video", films))
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        shared = encoded(encoder, rows_of("video", films, workers=2))
    np.testing.assert_array_equal(alone, shared)
    assert not [x for x in said if "fork" in str(x.message)]


def test_texts_are_embedded_as_everywhere(model):
    texts = ["a red circle", "a ring", "a green square moves up"]
    found = encoded(vop_jax.mteb_encoder(model), rows_of("text", texts))
    np.testing.assert_allclose(found, model.encode_texts(texts), atol=1e-6)


def test_rows_with_both_or_neither_are_one_line(model):
    from datasets import Dataset

    encoder = vop_jax.mteb_encoder(model)
    loader = rows_of("audio", ["a"])
    with pytest.raises(UserError, match="neither a text nor a video"):
        encoded(encoder, loader)
    both = type(loader)(Dataset.from_dict({"text": ["a"], "video": ["a"]}))
    with pytest.raises(UserError, match="text and video"):
        encoded(encoder, both)


def test_what_mteb_is_told_is_what_the_model_is(model, run):
    encoder = vop_jax.mteb_encoder(model, license="apache-2.0")
    about = encoder.mteb_model_meta
    assert isinstance(encoder, mteb.EncoderProtocol)
    assert about.name == "vop_jax/vop-backbone"
    assert about.revision == model.fingerprint
    # The demo's CLIP and the prompts of `vop`, as `parameters` counts them.
    assert about.n_parameters == sum(
        x.size for x in vop_jax.model.tree_paths.paths(model.variables).values()
    )
    assert about.embed_dim == encoded(encoder, rows_of("text", ["a"])).shape[1]
    assert about.max_tokens == model.tokenizer(["a"]).shape[1]
    assert about.license == "apache-2.0"
    assert about.modalities == ["text", "video"]
    assert about.framework == ["JAX"]
    assert about.training_datasets == set()
    assert about.experiment_kwargs is None
    bare = vop_jax.mteb_encoder(vop_jax.load("demo"), name="somebody/clip")
    assert bare.mteb_model_meta.name == "somebody/clip"
    assert bare.mteb_model_meta.training_datasets is None
    assert bare.mteb_model_meta.revision != model.fingerprint


def test_a_license_that_mteb_does_not_know_is_one_line(model):
    with pytest.raises(UserError, match=r"^license is 'mine', which mteb does not"):
        vop_jax.mteb_encoder(model, license="mine")


def test_the_tasks_of_the_table_are_mteb_s():
    from vop_jax.mteb_model.metadata import TASKS

    for name in sorted(set().union(*TASKS.values())):
        task = mteb.get_task(name)
        assert "video" in task.metadata.modalities
