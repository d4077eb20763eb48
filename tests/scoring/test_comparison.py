"""`evaluate --against`: two models on the same queries."""

import json

import numpy as np
import pytest

from vop_jax.evaluate import main
from vop_jax.scoring.bootstrap import Ranking
from vop_jax.scoring.permutation import permutation_test

RIGHT = np.repeat(np.arange(12), 3)


@pytest.fixture
def files(tmp_path):
    """Two models' similarities of 36 texts with 12 videos, and the first's ranks."""
    random = np.random.default_rng(0)
    own = np.eye(12)[RIGHT]
    for name, noise in (("good", 0.6), ("poor", 1.5)):
        values = own + noise * random.standard_normal(own.shape)
        np.save(tmp_path / f"{name}.npy", values.astype(np.float32))
    np.save(tmp_path / "map.npy", RIGHT)
    return tmp_path


def score(folder, name, *flags):
    arguments = [f"--similarity={folder / name}.npy"]
    if f"--against={folder / name}.ranks" not in flags:
        arguments += [f"--ranks={folder / name}.ranks"]
    arguments += [f"--json={folder / name}.json", "--resamples=300", *flags]
    with pytest.raises(SystemExit) as done:
        main([*arguments, f"--video_of_text={folder / 'map.npy'}"])
    return done.value.code


def read(path):
    return json.loads(path.read_text())


@pytest.mark.parametrize("ties", ["mean", "clip4clip"])
def test_differences_are_those_of_the_ranks(files, ties, capsys):
    assert score(files, "good", f"--ties={ties}") == 0
    against = f"--against={files / 'good.ranks'}"
    assert score(files, "poor", f"--ties={ties}", against) == 0
    # A title is wrapped to the width of its table.
    assert "paired permutation test" in " ".join(capsys.readouterr().out.split())
    good, poor = read(files / "good.json"), read(files / "poor.json")
    found = poor["against"]
    assert (found["ranks"], found["permutations"]) == (str(files / "good.ranks"), 300)
    for way in ("t2v", "v2t", "v2t_best_caption"):
        for name, value in poor[way].items():
            difference = value - good[way][name]
            assert found[way][name]["value"] == pytest.approx(difference)
    assert found["t2v"]["R@1"]["p"] < 0.05
    # Texts of one video are swapped together.
    flat = [
        np.hstack(read(files / f"{x}.ranks")["t2v"]).astype(float)
        for x in ("poor", "good")
    ]
    if ties == "mean":
        pair = (Ranking(ranks, RIGHT) for ranks in flat)
        by_hand = permutation_test(*pair, permutations=300)
        assert found["t2v"] == {k: x._asdict() for k, x in by_hand.items()}


def test_equal_models_do_not_differ(files):
    assert score(files, "good") == 0
    assert score(files, "good", f"--against={files / 'good.ranks'}") == 0
    for way in ("t2v", "v2t"):
        for each in read(files / "good.json")["against"][way].values():
            assert each == {"value": 0.0, "p": 1.0}


def test_without_it_nothing_is_compared(files):
    assert score(files, "good") == 0
    assert "against" not in read(files / "good.json")


def changed(**fields):
    return lambda ranks: json.dumps(ranks | fields)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda ranks: "{", "is not JSON"),
        (lambda ranks: "[]", "ranks"),
        (changed(t2v=[0.5]), "t2v"),
        (changed(t2v=[float("nan")] * 36), "NaN"),
        (changed(t2v=[1.0] * 35), "has 35 queries of t2v, but there are 36"),
        (changed(t2v=[1.0] * 35 + [[]]), "t2v has lists of ranks, which ties=mean"),
        (changed(t2v=[[1.0]] * 36), "t2v has lists of ranks, which ties=mean"),
        (
            changed(t2v=[1.0] * 35 + [1e9]),
            "t2v has a rank of 1,000,000,000 among 12 candidates; score both models",
        ),
        (changed(t2v=[12.5] * 36), "a rank of 12.5 among 12"),
        (changed(t2v=[1e308] * 36), "a rank of 1e+308 among 12 candidates"),
        (changed(t2v=[2**63 - 1] * 36), "a rank of 9.223372037e+18 among 12"),
        (changed(v2t=[13] * 12), "v2t has a rank of 13 among 12 candidates"),
        (changed(v2t_best_caption=[37] * 12), "a rank of 37 among 36 candidates"),
        (changed(t2v=[0] * 36), "t2v[0] is 0; it must be a number of at least 1, or a"),
        (changed(t2v=[1, True]), "t2v[1] is true; it must be a number of at least 1"),
        (changed(t2v=[1, [[1]]]), "t2v[1] is a list of 1; it must be a number of"),
        (changed(t2v=5), "t2v is 5; it must be a list"),
        (
            changed(t2v_videos=[0, [1]]),
            "t2v_videos[1] is [1]; it must be a string or a whole number",
        ),
        (changed(v2t_queries=[True]), "v2t_queries[0] is true; it must be a string or"),
        (changed(t2v_videos=[0] * 36), "is of other queries (t2v_videos differ)"),
        (changed(v2t_queries=["x"]), "is of other queries (v2t_queries differ)"),
        (changed(ties="pessimistic"), "counts ties as 'pessimistic'"),
        (changed(v2t_best_caption=[]), "has 0 queries of v2t_best_caption"),
        (lambda ranks: json.dumps({"ties": "mean"}), "t2v"),
    ],
)
def test_other_files_are_one_line(files, capsys, change, says):
    assert score(files, "good") == 0
    path = files / "other.ranks"
    path.write_text(change(read(files / "good.ranks")))
    capsys.readouterr()
    assert score(files, "good", f"--against={path}") == 2
    error = capsys.readouterr().err
    assert says in error
    assert str(path) in error
    assert error.count("\n") == 1


@pytest.mark.parametrize(
    ("ranks", "says"),
    [
        ([[1.0]] * 35 + [[]], "t2v has a query without a rank"),
        ([[1]] * 35 + [[1] * 20_000], "a query of 20,000 ranks among 12 candidates"),
        ([[1]] * 35 + [[1, 13]], "a rank of 13 among 12 candidates"),
    ],
)
def test_lists_of_ranks_are_of_the_candidates(files, capsys, ranks, says):
    assert score(files, "good", "--ties=clip4clip") == 0
    path = files / "other.ranks"
    path.write_text(json.dumps(read(files / "good.ranks") | {"t2v": ranks}))
    capsys.readouterr()
    assert score(files, "good", f"--against={path}", "--ties=clip4clip") == 2
    error = capsys.readouterr().err
    assert says in error
    assert error.count("\n") == 1


def test_nothing_is_written_where_ranks_cannot_be_compared(files):
    assert score(files, "good", "--ties=pessimistic") == 0
    new = files / "new.ranks"
    flags = [f"--against={files / 'good.ranks'}", f"--ranks={new}"]
    flags += [f"--video_of_text={files / 'map.npy'}", "--resamples=10"]
    with pytest.raises(SystemExit) as done:
        main([f"--similarity={files / 'good.npy'}", *flags])
    assert done.value.code == 2
    assert not new.exists()


def test_a_missing_file_is_reported_before_anything_is_scored(files, capsys):
    assert score(files, "good", f"--against={files / 'nothing'}") == 2
    assert "nothing" in capsys.readouterr().err
    assert not (files / "good.json").exists()


def test_names_of_texts_are_compared_too(files):
    """A file of a model knows its captions; that of a matrix does not."""
    assert score(files, "good") == 0
    ranks = read(files / "good.ranks")
    assert "t2v_queries" not in ranks
    path = files / "named.ranks"
    path.write_text(json.dumps(ranks | {"t2v_queries": ["a text"] * 36}))
    assert score(files, "good", f"--against={path}") == 0
