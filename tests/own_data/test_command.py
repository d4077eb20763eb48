"""`vop-jax train --videos --captions`: its command line, and all of it on few films."""

import csv
import json
import re
import sys

import numpy as np
import pytest
from command_lines import parse_with_config
from films import film

import vop_jax
from data_pipelines.console.errors import UserError
from vop_jax.__main__ import main, name_of
from vop_jax.own_data.choices import METHOD
from vop_jax.own_data.steps import Asked, train_on_own, with_choices
from vop_jax.runtime.run_folder import RunFolder
from vop_jax.train import _CONFIG, _short_form, as_fields
from vop_jax.training.command_line import _with_short_form
from vop_jax.training.config import default_values
from vop_jax.weights.config_file import load_size
from vop_jax.weights.locate import EMBEDDED

OWN = ["--videos=films", "--captions=x.csv"]
START = f"--config={_CONFIG}:method={METHOD},dataset=custom"


@pytest.mark.parametrize(
    ("given", "fields"),
    [
        ([], [START]),
        (["--epochs=3"], [START, "--config.epochs=3"]),
        (["-batch-size", "4"], [START, "--config.batch_size=4"]),
        (["--method=vop", "--output=x"], [START, "--config.method=vop", "--output=x"]),
        (["--config=y.py", "--seed=1"], ["--config=y.py", "--config.seed=1"]),
        (["--epochs"], [START, "--config.epochs="]),
        (["--config", "y.py", "--seed=1"], ["--config=y.py", "--config.seed=1"]),
        (["-config=y.py"], ["--config=y.py"]),
    ],
)
def test_flags_of_fields_are_fields(given, fields):
    assert as_fields(given) == fields


@pytest.mark.parametrize(
    ("line", "fields"),
    [
        ([], set()),
        (["--method=vop"], {"method"}),
        (["--config", "y.py:backbone=demo"], {"backbone"}),
        (["-config=x.py:method=vop", "--config", "y.py"], set()),
    ],
)
def test_the_fields_of_the_short_form_are_known(line, fields):
    assert _short_form(_with_short_form(as_fields(line))) == fields


def test_the_short_flags_decide_what_depends_on_them():
    line = [*OWN, "--method=vop_p", "--backbone=demo", "--epochs", "3", "--leave-out"]
    config, flags = parse_with_config("vop_jax.train", line)
    assert (config.method, config.backbone, config.epochs) == ("vop_p", "demo", 3)
    assert config.prompts.position_length == 4
    assert config.dataset == "custom"
    assert flags["leave_out"]


@pytest.mark.parametrize(
    ("line", "says"),
    [
        (["--epocs=3"], "did you mean --epochs?"),
        (["--epochs=many"], "config.epochs is 'many'; it must be a whole number"),
        (["--batch_size=0"], "config.batch_size"),
        (["--method=vop_pc"], "did you mean vop_p or vop_c?"),
        (["--vidoes=x"], "did you mean --videos?"),
    ],
)
def test_a_mistyped_flag_is_one_line(line, says):
    with pytest.raises(UserError) as error:
        parse_with_config("vop_jax.train", line)
    assert says in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("given", "name"),
    [
        (["--videos=x"], "train --videos"),
        (["--captions", "x"], "train --videos"),
        (["--config=x", "--config.seed=1"], "train"),
        ([], "train"),
    ],
)
def test_train_is_two_commands(given, name):
    assert name_of("train", given) == name
    assert name_of("prepare", given) == "prepare"


def test_the_command_is_started_with_what_follows_it(monkeypatch):
    started = []
    monkeypatch.setattr(
        "runpy.run_module", lambda *given, **_: started.append((given, sys.argv))
    )
    monkeypatch.setattr(sys, "argv", ["vop-jax", "train", *OWN])
    main()
    assert started == [(("vop_jax.train",), ["vop-jax", *OWN])]


WORDS = ("dark", "dim", "grey", "pale", "light", "bright")


@pytest.fixture(scope="module")
def own(tmp_path_factory):
    """Fourteen films, one of them damaged, with two captions each."""
    folder = tmp_path_factory.mktemp("own")
    rows = []
    for i in range(14):
        film(folder / "films" / f"{i}.mp4", grey=20 + 14 * i)
        said = f"{WORDS[i % 6]} and {WORDS[i // 6]}"
        rows += [(f"{i}.mp4", said), (f"{i}.mp4", f"it is {said}")]
    (folder / "films" / "3.mp4").write_bytes(b"this is no film")
    with (folder / "captions.csv").open("w") as file:
        csv.writer(file, delimiter=";").writerows([("video", "caption"), *rows])
    return folder


def train(own, captions="captions.csv", **fields):
    """The command, without its start; `fields` are set on the command line."""
    fields = {"num_frames": 2, "epochs": 2} | fields
    values = default_values("vop", "custom", "demo")
    values |= fields
    given = frozenset({"method", "backbone", *fields})
    asked = Asked(own / "films", own / captions, own / "run", False, given)
    return train_on_own(asked, values)


def test_a_run_that_has_begun_keeps_what_was_chosen(tmp_path):
    """A resumed run has the batch of its beginning, whatever would be chosen now."""
    values = default_values("vop", "custom", "demo")
    begun = values | {"batch_size": 6, "epochs": 7, "compute": {"dtype": "float32"}}
    (tmp_path / "config.json").write_text(json.dumps(begun))
    given = frozenset({"method", "epochs"})
    asked = Asked(tmp_path, tmp_path / "x.csv", tmp_path, False, given)
    size = load_size(EMBEDDED["demo"])
    config = with_choices(asked, RunFolder(tmp_path), values | {"epochs": 9}, size)
    assert (config.batch_size, config.epochs) == (6, 9)


@pytest.mark.slow
def test_films_and_a_table_become_a_model(own, capsys):
    results = train(own)
    printed = capsys.readouterr()
    out, err = (re.sub(" +", " ", x) for x in printed)
    # What was noticed, and what was chosen.
    assert "captions.csv: read as separated by semicolons" in err
    assert "left out: " in err
    assert "rows 8 and 9: 3.mp4 cannot be read" in err
    assert "9 training videos are few: the tuned model may be worse" in err
    assert "9 videos to train on, 2 videos to validate, 2 videos to test" in out
    assert "chose batch_size 8: 9 training videos" in out
    assert "chose learning_rate 0.01" in out
    assert "epochs" not in re.findall("chose (.*?) ", out)
    # What came of it.
    assert results["queries"] == 4
    for way in ("t2v", "v2t"):
        low, high = results["intervals"][way]["R@1"]
        assert low <= results[way]["R@1"] <= high
        assert results["against_untuned"][way]["R@1"]["value"] == pytest.approx(
            results[way]["R@1"] - results["compared_with"]["zero_shot"][way]["R@1"]
        )
    assert "4 captions of 2 test videos, 95% intervals" in out
    run = own / "run"
    assert f"search index --videos={own / 'films'} --checkpoint={run}" in out
    assert (run / "report" / "index.html").is_file()
    model = vop_jax.load(run)
    assert np.isfinite(model.encode_texts(["dark"])).all()

    # Again: nothing is decoded or trained, the same is told.
    before = {x: x.stat().st_mtime_ns for x in (run / "data").rglob("*")}
    metrics = (run / "metrics.jsonl").read_text()
    assert train(own) == results
    printed = capsys.readouterr()
    assert "is trained on these videos and captions already" in printed.out
    assert "looking" not in printed.err
    assert {x: x.stat().st_mtime_ns for x in (run / "data").rglob("*")} == before
    assert (run / "metrics.jsonl").read_text() == metrics
    # Other settings, captions or films are no longer this run.
    with pytest.raises(UserError, match=r"epochs is 2 there and 3 here.*--output"):
        train(own, epochs=3)
    text = (own / "captions.csv").read_text()
    (own / "more.csv").write_text(f"{text}0.mp4;a further caption\n")
    with pytest.raises(UserError, match=r"\(1 caption added\); use another --output"):
        train(own, "more.csv")
    film(own / "films" / "1.mp4", frames=5)
    with pytest.raises(UserError, match=r"1 video replaced: 1\.mp4"):
        train(own)


@pytest.mark.slow
def test_a_table_that_is_corrected_before_training_starts_anew(own, monkeypatch):
    """As after Ctrl-C while the films are decoded."""
    (own / "films" / "3.mp4").unlink()
    film(own / "films" / "3.mp4")
    folder = own.with_name("other")
    folder.mkdir()
    (folder / "films").symlink_to(own / "films")
    text = (own / "captions.csv").read_text()
    (folder / "captions.csv").write_text(text)

    def stop(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("vop_jax.own_data.steps.run_job", stop)
        with pytest.raises(KeyboardInterrupt):
            train(folder)
    (folder / "captions.csv").write_text(f"{text}0.mp4;a further caption\n")
    assert train(folder)["queries"] in (4, 5)
    written = (folder / "run" / "captions.csv").read_text()
    assert "a further caption" in written


def test_nothing_is_written_for_a_table_with_mistakes(own):
    (own / "wrong.csv").write_text("video,caption\n0.mp4,\n1.mp4,light\n")
    values = default_values("vop", "custom", "demo")
    asked = Asked(own / "films", own / "wrong.csv", own / "new", False, frozenset())
    with pytest.raises(UserError, match="row 2: the caption is empty"):
        train_on_own(asked, values)
    assert not (own / "new").exists()


def test_the_folder_of_another_run_is_refused(own, tmp_path):
    (tmp_path / "config.json").write_text('{"method": "vop"}')
    asked = Asked(own / "films", own / "captions.csv", tmp_path, False, frozenset())
    with pytest.raises(UserError, match="not made from a file of captions; use"):
        train_on_own(asked, default_values("vop", "custom", "demo"))
    assert [x.name for x in tmp_path.iterdir()] == ["config.json"]
