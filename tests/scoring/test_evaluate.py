"""The evaluate command: a matrix of anybody's, a run, a bare CLIP."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from slow_metrics import held, matrix, slow_ranks

from configs.vop import get_config
from data_pipelines.datasets.demo import world
from vop_jax.evaluate import main
from vop_jax.scoring.bootstrap import Ranking, bootstrap_intervals
from vop_jax.scoring.hub_corrections import dual_softmax, querybank_norm
from vop_jax.scoring.metrics import retrieval_metrics, summary
from vop_jax.scoring.ties import TIES
from vop_jax.training.config import check_config
from vop_jax.weights.locate import BACKBONE

ROOT = Path(__file__).parents[2]
METRICS = ["R@1", "R@5", "R@10", "MdR", "MnR", "nDCG@10"]


def run(*arguments):
    with pytest.raises(SystemExit) as done:
        main([str(x) for x in arguments])
    return done.value.code


@pytest.fixture
def scored(tmp_path):
    """Scores a matrix with flags; what `--json` and `--ranks` then hold."""

    def score(similarity, *flags, right=None, name="s.npy"):
        np.save(tmp_path / name, similarity)
        flags = list(flags)
        if right is not None:
            np.save(tmp_path / "map.npy", right)
            flags.append(f"--video-of-text={tmp_path / 'map.npy'}")
        outputs = [tmp_path / "out" / "x.json", tmp_path / "ranks.json"]
        flags += [f"--json={outputs[0]}", f"--ranks={outputs[1]}"]
        assert run(f"--similarity={tmp_path / name}", "--resamples=200", *flags) == 0
        return [json.loads(path.read_text()) for path in outputs]

    return score


@pytest.mark.parametrize("ties", TIES)
@pytest.mark.parametrize("kind", ["random", "tied"])
def test_figures_and_ranks_of_single_captions(scored, kind, ties):
    similarity = matrix(kind, 30, 30)
    found, ranks = scored(similarity, f"--ties={ties}")
    assert found["ties"] == ranks["ties"] == ties
    for way, scores in (("t2v", similarity), ("v2t", similarity.T)):
        expected = [
            slow_ranks(row, i, [j for j in range(30) if j != i], ties)
            for i, row in enumerate(scores)
        ]
        flat = np.concatenate(expected)
        assert found[way] == pytest.approx(summary(flat))
        # CLIP4Clip divides by the number of places that the right items take.
        assert found["counted"][way] == len(flat)
        assert found["tied_queries"][way] == sum(
            (row == row[i]).sum() > 1 for i, row in enumerate(scores)
        )
        if ties != "clip4clip":
            expected = [rank for (rank,) in expected]
        assert ranks[way] == expected
        intervals = found["intervals"][way]
        assert list(intervals) == METRICS
        for name, (low, high) in intervals.items():
            assert low <= found[way][name] <= high
    assert ranks["t2v_videos"] == ranks["v2t_queries"] == list(range(30))
    assert found["by_ties"][ties]["t2v"] == found["t2v"]
    if kind == "tied":
        recalls = {x: found["by_ties"][x]["v2t"]["R@1"] for x in TIES}
        assert recalls["pessimistic"] < recalls["clip4clip"] < recalls["optimistic"]


def test_several_captions(scored, capsys):
    similarity = matrix("tied", 40, 9)
    right = np.random.default_rng(1).permutation(np.resize(np.arange(8), 40))
    found, ranks = scored(similarity, right=right)
    expected = retrieval_metrics(similarity, right)
    assert {way: found[way] for way in expected} == expected
    assert found["queries"] == 40
    assert found["videos"] == 9
    # The captions of a video are drawn together.
    (drawn,) = bootstrap_intervals(
        [Ranking(np.array(ranks["t2v"]), right)], resamples=200
    )
    assert found["intervals"]["t2v"] == {k: list(v) for k, v in drawn.items()}
    assert ranks["t2v_videos"] == right.tolist()
    assert ranks["v2t_queries"] == list(range(8))
    assert len(ranks["v2t"]) == len(ranks["v2t_best_caption"]) == 8
    shown = capsys.readouterr().out
    assert shown.count("v2t_best_caption") == 6
    assert "40 texts, 9 videos" in shown


@pytest.mark.parametrize("way", ["t2v", "v2t"])
def test_clip4clip_ranks_belong_to_their_videos(scored, way):
    similarity = matrix("tied", 24, 6)
    right = np.repeat(np.arange(6), 4)
    found, ranks = scored(similarity, "--ties=clip4clip", right=right)
    of_query = right if way == "t2v" else np.arange(6)
    assert len(ranks[way]) == len(of_query)
    flat = np.concatenate(ranks[way])
    video = np.repeat(of_query, [len(x) for x in ranks[way]])
    (drawn,) = bootstrap_intervals([Ranking(flat, video)], resamples=200)
    assert found["intervals"][way] == {k: list(v) for k, v in drawn.items()}


def test_corrections_stand_apart(scored, tmp_path, capsys):
    similarity, bank = matrix("random", 25, 25), matrix("random", 40, 25, seed=5)
    video_bank = matrix("random", 25, 30, seed=6)
    np.save(tmp_path / "bank.npy", bank)
    np.save(tmp_path / "video_bank.npy", video_bank)
    plain, _ = scored(similarity)
    assert plain["corrected"] == {}
    assert "corrected" not in capsys.readouterr().out
    flags = [f"--bank={tmp_path / 'bank.npy'}", "--dsl-temperature=0.5", "--beta=2"]
    found, _ = scored(similarity, *flags)
    assert found["t2v"] == plain["t2v"]
    dsl, norm = found["corrected"]["DSL"], found["corrected"]["QB-Norm"]
    assert dsl["temperature"] == 0.5
    for way, changed in (
        ("t2v", held(dual_softmax(similarity, 0.5))),
        ("v2t", held(dual_softmax(similarity.T, 0.5)).T),
    ):
        assert dsl[way] == retrieval_metrics(changed)[way] != plain[way]
        assert list(dsl["intervals"][way]) == METRICS
    changed = held(querybank_norm(similarity, bank, 2))
    assert norm["t2v"] == retrieval_metrics(changed)["t2v"]
    assert (norm["beta"], norm["bank"]) == (2, 40)
    assert "v2t" not in norm
    shown = capsys.readouterr().out
    for row in ("t2v DSL", "v2t DSL", "t2v QB-Norm"):
        assert f" {row} " in shown
    found, _ = scored(similarity, f"--video_bank={tmp_path / 'video_bank.npy'}")
    norm = found["corrected"]["QB-Norm"]
    changed = held(querybank_norm(similarity.T, video_bank.T)).T
    assert norm["v2t"] == retrieval_metrics(changed)["v2t"]
    assert "t2v" not in norm


def test_the_table_of_ties_is_for_ties(scored, capsys):
    scored(np.eye(12) + matrix("random", 12, 12))
    assert "tied queries" not in capsys.readouterr().out
    scored(matrix("tied", 12, 12))
    shown = capsys.readouterr().out
    assert "tied queries: 1" in shown
    for ties in TIES:
        assert f" t2v {ties} " in shown


def test_other_files_of_numbers(scored, tmp_path):
    similarity = matrix("random", 8, 8)
    expected, _ = scored(similarity)
    for name, save in (("z", np.savez), ("c", np.savez_compressed)):
        path = tmp_path / f"{name}.npz"
        save(path, similarity)
        assert run(f"--similarity={path}", f"--json={tmp_path / 'o.json'}") == 0
        found = json.loads((tmp_path / "o.json").read_text())
        assert found["t2v"] == expected["t2v"]


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("files")
    np.save(folder / "good.npy", np.eye(6))
    np.save(folder / "wide.npy", np.ones((6, 4)))
    np.save(folder / "map.npy", np.array([0, 1, 2, 3, 4, 9]))
    np.save(folder / "row.npy", np.ones(6))
    np.save(folder / "nan.npy", np.where(np.eye(6) == 1, np.nan, 0))
    np.save(folder / "pickled.npy", np.array([{}]), allow_pickle=True)
    np.savez(folder / "two.npz", np.eye(2), np.eye(2))
    whole = (folder / "good.npy").read_bytes()
    (folder / "cut.npy").write_bytes(whole[:200])
    (folder / "header.npy").write_bytes(whole.replace(b"(", b"["))
    packed = bytearray((folder / "two.npz").read_bytes())
    (folder / "cut.npz").write_bytes(packed[: len(packed) // 2])
    (folder / "text.npy").write_text("1 2")
    (folder / "empty.npy").touch()
    for name in ("clip", "run"):
        (folder / name).mkdir()
    (folder / "clip/own.bin").touch()
    config = json.dumps({"method": "vop", "backbone": "clip", "dataset": "demo"})
    (folder / "run/config.json").write_text(config)
    return folder


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        ("", "either --similarity=FILE or --checkpoint"),
        ("--similarity=good.npy --checkpoint=x", "either --similarity=FILE"),
        (
            "--checkpoint=x",
            "x is not the folder of a run, which names its data set; pass --dataset",
        ),
        (
            "--checkpoint=.",
            ". is not the folder of a run, which names its data set; pass --",
        ),
        ("--simlarity=good.npy", "unrecognized arguments: --simlarity"),
        ("good.npy", "unrecognized arguments: good.npy"),
        ("--similarity=none.npy", "none.npy cannot be read (No such file"),
        ("--similarity=.", "cannot be read (Is a directory)"),
        ("--similarity=text.npy", "not a .npy or .npz file"),
        ("--similarity=empty.npy", "empty.npy is empty"),
        ("--similarity=pickled.npy", "pickled Python objects"),
        ("--similarity=cut.npy", "cut.npy is damaged"),
        ("--similarity=header.npy", "header.npy is damaged"),
        ("--similarity=cut.npz", "cut.npz is damaged"),
        ("--similarity=two.npz", "holds 2 arrays"),
        ("--similarity=row.npy", "row.npy: the similarity has shape [6]"),
        ("--similarity=wide.npy", "pass the video of each text, --video-of-text=FILE"),
        ("--similarity=nan.npy", "nan.npy: the similarity of text 0 with video 0"),
        ("--similarity=good.npy --video_of_text=map.npy", "map.npy holds the index 9"),
        ("--similarity=good.npy --video-of-text=nan.npy", "one of 6 videos"),
        ("--similarity=good.npy --bank=wide.npy", "bank has 4 candidates"),
        (
            "--similarity=good.npy --bank=nan.npy",
            "nan.npy: the bank of query 0 with candidate 0 is nan",
        ),
        (
            "--similarity=good.npy --video_bank=nan.npy",
            "nan.npy: the bank of query 0 with candidate 0 is nan",
        ),
        ("--similarity=good.npy --bank=row.npy", "bank is float64 [6]"),
        ("--similarity=good.npy --video_bank=row.npy", "bank is float64 [6]"),
        ("--similarity=good.npy --ties=lucky", "invalid choice: 'lucky'"),
        ("--similarity=good.npy --dsl_temperature=0", "must be from 1e-06"),
        ("--similarity=good.npy --resamples=0", "must be from 1"),
        ("--similarity=good.npy --seed=one", "'one' is not a whole number"),
        (
            "--similarity=good.npy --dataset=demo",
            "--dataset can only be used with --checkpoint",
        ),
        ("--checkpoint=x --bank=good.npy", "--bank can only be used with --similarity"),
        ("--checkpoint=x --dataset=msrvt", "'msrvt' is not one of"),
        ("--checkpoint=x --dataset=demo --split=tset", "invalid choice: 'tset'"),
        ("--checkpoint=x --dataset=demo --tuned=none", "no file none"),
        ("--similarity=good.npy --json=.", "cannot be written"),
        ("--similarity=good.npy --ranks=text.npy/x", "cannot be written"),
        (
            "--similarity=good.npy --json=good.npy",
            "--json=good.npy would replace good.npy, a file of --similarity",
        ),
        (
            "--similarity=good.npy --video_of_text=map.npy --ranks=./map.npy",
            "a file of --video_of_text",
        ),
        (
            "--similarity=good.npy --json=both.json --ranks=both.json",
            "--ranks=both.json would replace both.json, a file of --json",
        ),
        (
            "--similarity=good.npy --against=text.npy --ranks=text.npy",
            "a file of --against",
        ),
        ("--checkpoint=clip --dataset=demo --json=clip/config.json", "of --checkpoint"),
        ("--checkpoint=clip --dataset=demo --ranks=clip/own.bin", "of --checkpoint"),
        ("--checkpoint=run --json=run/results.json", "of --checkpoint"),
        ("--checkpoint=run --json=run/checkpoints/1", "of --checkpoint"),
        ("--checkpoint=run --json=clip/model.safetensors", "of --checkpoint"),
        (
            "--checkpoint=clip --dataset=demo --similarity_out=s.npy --ranks=s.npy",
            "of --ranks",
        ),
    ],
)
def test_mistakes_are_one_line(files, monkeypatch, capsys, flags, says):
    monkeypatch.chdir(files)
    before = {x: x.read_bytes() for x in files.rglob("*") if x.is_file()}
    assert run(*flags.split()) == 2
    assert {x: x.read_bytes() for x in files.rglob("*") if x.is_file()} == before
    shown = capsys.readouterr()
    assert shown.err.startswith("error: ")
    assert says in shown.err
    assert shown.err.count("\n") == 1
    assert not shown.out


def test_a_matrix_needs_no_jax(files):
    """From outside, with a typing mistake and with a matrix, before it was loaded."""
    source = (
        "import sys, vop_jax.evaluate as e\n"
        "try: e.main(sys.argv[1:])\n"
        "except SystemExit as done: status = done.code\n"
        "heavy = {'jax', 'tensorflow', 'torch'} & set(sys.modules)\n"
        "sys.exit(9 if heavy else status)"
    )
    for flag, status in (("--similarity", 0), ("--similarty", 2)):
        done = subprocess.run(
            [sys.executable, "-c", source, f"{flag}={files / 'good.npy'}"],
            cwd=ROOT,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert done.returncode == status
        assert done.stderr.count("\n") == (status > 0)


@pytest.fixture(scope="module")
def small_run(tmp_path_factory):
    """A finished run on a small world."""
    from vop_jax.runtime.run_folder import RunFolder
    from vop_jax.training.job import run_job

    patch = pytest.MonkeyPatch()
    patch.setattr(world, "SPLITS", {"train": 16, "validation": 16, "test": 16})
    values = get_config("method=vop").to_dict()
    values |= {"epochs": 1, "batch_size": 16, "evaluation_batch_size": 16}
    values |= {"data_dir": str(tmp_path_factory.mktemp("data")), "ties": "pessimistic"}
    folder = RunFolder(tmp_path_factory.mktemp("run") / "run")
    run_job(check_config(values), folder)
    yield folder
    patch.undo()


@pytest.mark.slow
def test_a_run_is_scored_as_it_was(small_run, tmp_path):
    similarity = tmp_path / "s.npy"
    flags = [f"--json={tmp_path / 'x.json'}", f"--ranks={tmp_path / 'r.json'}"]
    flags += [f"--similarity-out={similarity}", "--bank-captions=20"]
    flags += ["--time-order"]
    assert run(f"--checkpoint={small_run.path}", *flags) == 0
    found = json.loads((tmp_path / "x.json").read_text())
    expected = json.loads(small_run.results.read_text())
    others = {"trainable_parameters", "compared_with", "seconds", "against_untuned"}
    for key in expected.keys() - others:
        assert found[key] == expected[key], key
    assert found["ties"] == "pessimistic"
    assert set(found["corrected"]) == {"DSL", "QB-Norm"}
    assert found["corrected"]["QB-Norm"]["bank"] == 20
    ranks = json.loads((tmp_path / "r.json").read_text())
    assert len(ranks["t2v"]) == len(ranks["t2v_queries"]) == expected["queries"]
    assert ranks["v2t_queries"] == sorted(set(ranks["t2v_videos"]))
    assert np.mean(ranks["v2t"]) == pytest.approx(expected["v2t"]["MnR"])
    # The method sees no order: reversed videos are the same to it, to rounding.
    order = found["time_order"]
    assert order["reversed_videos"]["preferred"] == 50
    assert set(order["reversed_videos"]["t2v"]) == set(METRICS)
    captions = [x for x in ranks["t2v_queries"] if " then " in x or "before" in x]
    part = order["swapped_captions"]
    assert 0 < len(captions) <= part["captions"]
    assert part["swapped"] != part["as_written"]
    # The matrix alone gives the same.
    again = [f"--similarity={similarity}", "--ties=pessimistic", *flags[:1]]
    assert run(*again) == 0
    assert json.loads((tmp_path / "x.json").read_text())["v2t"] == expected["v2t"]


@pytest.mark.slow
def test_a_bare_clip_is_scored_on_a_data_set(small_run, tmp_path):
    config = small_run.read_config()
    flags = ["--dataset=demo", f"--data_dir={config['data_dir']}", "--batch_size=16"]
    flags += ["--ties=pessimistic", "--bank_captions=0", "--resamples=10"]
    done = run(f"--checkpoint={BACKBONE}", *flags, f"--json={tmp_path / 'x.json'}")
    assert done == 0
    found = json.loads((tmp_path / "x.json").read_text())
    expected = json.loads(small_run.results.read_text())["compared_with"]["zero_shot"]
    for key in expected.keys() - {"trainable_parameters", "intervals"}:
        assert found[key] == expected[key], key
    assert set(found["corrected"]) == {"DSL"}
