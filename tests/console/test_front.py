"""What a person types and reads first: help, mistyped names, flags, the overview."""

import argparse
import re
import sys
from pathlib import Path

import pytest
from command_lines import (
    WITH_ARGPARSE,
    parse_arguments,
    parse_with_config,
    parsers_of,
)
from fake_bucket import bucket  # noqa: F401
from hypothesis import given, settings
from hypothesis import strategies as st

from data_pipelines.catalog.table import DATASETS
from data_pipelines.console.arguments import (
    Parser,
    fold,
)
from data_pipelines.console.errors import UserError
from data_pipelines.console.names import closest, did_you_mean, pick
from vop_jax.__main__ import COMMANDS, overview, purpose
from vop_jax.model.clip.families import HUB_NAMES, SIZES, known_size
from vop_jax.model.methods import METHODS, find_method
from vop_jax.training.config import CHOICES, RunConfig, default_values, parse_short_form
from vop_jax.training.fields import all_fields, described, unknown_field
from vop_jax.weights import backbone

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize(
    ("name", "known", "found"),
    [
        ("vop_pc", METHODS, ["vop_p", "vop_c"]),
        ("VOP-FC", METHODS, ["vop_fc"]),
        ("msrvtt9k", DATASETS, ["msrvtt_9k"]),
        ("metod", ("method", "dataset"), ["method"]),
        ("something else", METHODS, []),
        ("", METHODS, []),
    ],
)
def test_the_closest_names(name, known, found):
    assert closest(name, known)[: len(found) or 3] == found


def test_a_name_of_any_length_is_answered_shortly():
    with pytest.raises(UserError) as error:
        pick(METHODS, "x" * 100_000, "method")
    assert len(str(error.value)) < 400
    assert did_you_mean("x" * 100_000, ["x" * 90_000])


@pytest.mark.parametrize(
    ("name", "code", "says"),
    [
        ("config.json", '{\n"train": false}', "config.json, line 2: NameError: "),
        ("own.py", "def get_config(:\n", "own.py, line 1: SyntaxError: "),
        (
            "own.py",
            "def get_config():\n  return {}['seed']\n",
            "own.py, line 2: KeyError: 'seed'; a configuration is Python with a "
            "function get_config, see configs/vop.py",
        ),
        (
            "own.py",
            "from configs import vop\n\ndef get_config():\n"
            "  config = vop.get_config()\n  config.epoch = 3\n",
            "own.py, line 5: AttributeError: ",
        ),
        ("own.py", "raise RuntimeError('long' * 10**6)", "line 1: RuntimeError: long"),
        ("own.py", "", "own.py has no function get_config, see configs/vop.py"),
    ],
)
def test_a_configuration_that_fails_is_named_with_the_line(
    name, code, says, monkeypatch, tmp_path
):
    monkeypatch.chdir(ROOT)
    # A command loads one file; here the module would keep the function of the last.
    monkeypatch.delitem(sys.modules, "config_config", raising=False)
    (tmp_path / name).write_text(code)
    with pytest.raises(UserError) as error:
        parse_with_config("vop_jax.main", [f"--config={tmp_path / name}"])
    assert says in str(error.value)
    assert "\n" not in str(error.value)
    assert len(str(error.value)) < 400


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--config=configs/vop.py:metod=vop_p"], "did you mean method=vop_p?"),
        (["--config=configs/vop.py:method=vop_pc"], "mean vop_p or vop_c?"),
        (["--config=configs/vop.py:dataset=msrvtt_9"], "did you mean msrvtt_9k?"),
        (
            ["--config=configs/vop.py", "--config.optimizer.learning_rat=1"],
            "config.optimizer.learning_rat is not a field; did you mean "
            "config.optimizer.learning_rate?",
        ),
        (
            ["--config=configs/vop.py", "--config.learning_rate=1"],
            "did you mean config.optimizer.learning_rate?",
        ),
        (
            ["--config=configs/vop.py", "--config.optimzer.learning_rate=1"],
            "did you mean config.optimizer.learning_rate?",
        ),
        (
            ["--config=configs/vop.py", "--config.lr=1"],
            "mean config.prompts.lora_rank or config.optimizer.learning_rate?",
        ),
        (["--config=configs/vop.py", "--config.mesh=2"], "set config.mesh.data"),
        (["--learning_rate=1"], "did you mean --config.optimizer.learning_rate?"),
        (["--method=vop"], "did you mean --config=configs/vop.py:method=VALUE?"),
        (["--work-di=x"], "did you mean --workdir?"),
        (
            ["--videos=films"],
            "--videos is not a flag here; it is a flag of python -m vop_jax.train",
        ),
        (["--against=x"], "it is a flag of python -m vop_jax.evaluate"),
        (["--per-video=2"], "it is a flag of python -m vop_jax.search"),
        (
            ["--config=configs/vop"],
            "--config: configs/vop cannot be read (No such file or directory); did you "
            "mean configs/vop.py?",
        ),
        (
            ["--config=configs/vop.py", "--config.epochs=1.5"],
            "config.epochs is '1.5'; it must be a whole number",
        ),
        (
            ["--config=configs/vop.py", "--config.optimizer.warmup=little"],
            "config.optimizer.warmup is 'little'; it must be a number",
        ),
        (["--config=configs/vop.py", "--config.ties=meen"], "did you mean mean?"),
        (
            ["--config=configs/vop.py", "--config.prompts.cmm=lstn"],
            "config.prompts.cmm must be one of bilstm, lstm, transformer; did you",
        ),
        (["--config=configs/vop.py:backbone=gs://b/c"], "a path of an object store"),
    ],
)
def test_a_mistyped_name_gets_the_right_one(arguments, says, monkeypatch):
    monkeypatch.chdir(ROOT)
    with pytest.raises(UserError) as error:
        parse_with_config("vop_jax.main", arguments)
    assert says in str(error.value)
    assert "\n" not in str(error.value)


def test_a_field_of_the_short_form_decides_the_fields_that_follow(monkeypatch):
    monkeypatch.chdir(ROOT)
    line = ["--config=configs/vop.py:dataset=demo", "--config.method=vop_p"]
    config, _ = parse_with_config("vop_jax.main", line)
    short, _ = parse_with_config(
        "vop_jax.main", ["--config=configs/vop.py:method=vop_p"]
    )
    assert config == short
    assert config.prompts.position_length == 4


@pytest.mark.parametrize("spelling", ["--video-of-text", "--video_of_text"])
def test_both_spellings_of_a_flag(spelling):
    found = parse_arguments("vop_jax.evaluate", ["--similarity=a", spelling, "b-c_d"])
    assert found.video_of_text == Path("b-c_d")
    for flag in ("--allow-missing-test", "--allow_missing_test"):
        line = ["--dataset=demo", "--output=x", flag, "--num-frames=3"]
        found = parse_arguments("data_pipelines.prepare", line)
        assert found.allow_missing_test
        assert found.num_frames == 3


def test_both_spellings_with_a_configuration(monkeypatch):
    monkeypatch.chdir(ROOT)
    line = ["--config=configs/vop.py", "--process-count=1"]
    line.append("--config.optimizer.learning-rate=0.5")
    config, flags = parse_with_config("vop_jax.main", line)
    assert flags["process_count"] == 1
    assert config.optimizer.learning_rate == 0.5


@settings(max_examples=50, deadline=None)
@given(st.text(), st.sampled_from(["a_b", "c"]))
def test_values_are_never_folded(value, name):
    known = {"a_b", "c"}
    spelled = name.replace("_", "-")
    assert fold(f"--{spelled}={value}", known) == f"--{name}={value}"
    other = f"--other-flag={value}"
    assert fold(other, known) == other
    assert fold(value if not value.startswith("-") else f"x{value}", known) in (
        value,
        f"x{value}",
    )


@pytest.mark.parametrize("module", WITH_ARGPARSE)
def test_every_help_says_each_default(module):
    for parser in parsers_of(module):
        formatter = parser._get_formatter()
        for action in parser._actions:
            if isinstance(action, argparse._SubParsersAction | argparse._HelpAction):
                continue
            assert action.help, action.dest
            shown = formatter._expand_help(action)
            wanted = not action.required and bool(action.option_strings)
            assert wanted == ("(default: " in shown), (module, action.dest)
            assert "None" not in shown
        # As narrow as a terminal can be.
        assert parser.format_help()


def test_a_default_of_none_must_be_explained():
    """Negative control."""
    parser = Parser("x")
    parser.add_argument("--a", help="words")
    parser.add_argument("--b", default=3, help="100%% of words")
    shown = " ".join(parser.format_help().split())
    assert "--a A words --b" in shown
    assert "100% of words (default: 3)" in shown


@pytest.mark.parametrize("columns", ["1", "20", "300"])
def test_help_fits_any_terminal(columns, monkeypatch, capsys):
    monkeypatch.setenv("COLUMNS", columns)
    monkeypatch.chdir(ROOT)
    with pytest.raises(SystemExit) as end:
        parse_with_config("vop_jax.main", ["--help"])
    assert not end.value.code
    assert "vop_fc" in capsys.readouterr().out
    for parser in parsers_of("vop_jax.evaluate"):
        parser.format_help()


def test_help_lists_methods_data_sets_and_every_field(monkeypatch, capsys):
    monkeypatch.chdir(ROOT)
    with pytest.raises(SystemExit):
        parse_with_config(
            "vop_jax.main", ["--config=configs/vop.py:method=vop_p", "--help"]
        )
    shown = capsys.readouterr().out
    for name, method in METHODS.items():
        assert method.about
        assert re.search(rf"^  {name} +\S", shown, re.M)
    for name in DATASETS:
        assert re.search(rf"^  {name} +\S", shown, re.M)
    assert "--config.prompts.position_length=4\n" in shown
    text = " ".join(shown.split())
    for field in all_fields():
        assert f"--config.{field.name}=" in shown
        assert " ".join(described(field).split()) in text
    # Each flag with its default.
    assert "(default: runs/DATASET_METHOD)" in text
    assert "(default: 100)" in text


def test_every_field_is_explained_and_the_choices_are_of_fields():
    fields = {field.name: field for field in all_fields()}
    for field in fields.values():
        assert len(field.meaning) > 3, field.name
    assert set(CHOICES) <= set(fields)
    for name, words in CHOICES.items():
        assert fields[name].default in words
    assert fields["method"].choices == tuple(METHODS)
    assert unknown_field("optimizer.learning_rate") == ""
    assert {x.partition(".")[0] for x in fields} == set(RunConfig.__annotations__)


def test_the_overview_has_a_line_for_every_command():
    text = "\n".join(overview())
    for name, module in COMMANDS.items():
        assert purpose(module)
        assert re.search(rf"^  {name} +{module} +\w", text, re.M)
    found = {
        f"{path.parent.name}.{path.stem}"
        for folder in ("vop_jax", "data_pipelines")
        for path in (ROOT / folder).glob("*.py")
        if path.stem != "__main__" and '__name__ == "__main__"' in path.read_text()
    }
    # A decoding process is started by its own program, not by people.
    assert found - {"data_pipelines.decoding.video_job"} == {*COMMANDS.values()}


def test_a_known_name_is_looked_for_on_the_hub(monkeypatch, tmp_path):
    asked = []

    def offline(_, name, **__):
        asked.append(name)
        raise ConnectionError("no network.\nSecond line.")

    monkeypatch.setattr("huggingface_hub.HfApi.model_info", offline)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "c"))
    monkeypatch.chdir(tmp_path)
    for name, hub_name in HUB_NAMES.items():
        with pytest.raises(UserError) as error:
            backbone.find_folder(name)
        assert f"{name} is not a folder, and {hub_name} cannot be" in str(error.value)
        assert "vop_jax.convert" in str(error.value)
        assert "\n" not in str(error.value)
        assert known_size(name) is known_size(hub_name) is SIZES[name]
        layers = default_values("vop_f", "msrvtt_9k", hub_name)["prompts"][
            "split_layer"
        ]
        all_layers = SIZES[name].vision.layers
        assert layers == all_layers - all_layers // 3
    assert asked == list(HUB_NAMES.values())
    # A folder of that name comes first.
    (tmp_path / "vit_b32").mkdir()
    assert backbone.find_folder("vit_b32") == Path("vit_b32")
    assert (backbone.find_folder("demo") / "config.json").is_file()
    (tmp_path / "demo").mkdir()
    assert backbone.find_folder("demo") == Path("demo")
    assert parse_short_form("backbone=vit_b32") == {"backbone": "vit_b32"}
    assert find_method("vop").about
