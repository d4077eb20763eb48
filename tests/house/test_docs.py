"""What README and docs print can be typed: shell, flags, fields, files."""

import itertools
import re
import subprocess

import pytest
from command_lines import all_flags, parse_any, parse_with_config
from pages import (
    PAGES,
    ROOT,
    blocks,
    make_stage,
    spans,
    started,
    without_placeholders,
)

from data_pipelines.console.errors import UserError
from vop_jax.training.fields import unknown_field

# Flags in the text that are another program's.
FOREIGN = {"target", "size"}
# What `-m` selects tests by.
MARKERS = ("slow", "campaign", "browser", "tpu_plugin")
# Modules that take no arguments of ours: the list of commands, and the site's builder,
# which `test_site.py` runs.
BARE = {"vop_jax": [], "mkdocs": ["build", "--strict"]}


@pytest.fixture
def stage(tmp_path):
    """A folder in which whatever a page starts writes down its arguments."""
    return make_stage(tmp_path)


def check(program, requirements, arguments):
    """Makes sure that this project takes the line."""
    if requirements:
        assert (ROOT / requirements).is_file(), requirements
    if not program.endswith("run.sh"):
        if arguments[0].startswith("examples/"):
            assert (ROOT / arguments[0]).is_file(), arguments[0]
            return None
        assert arguments[0] == "-m", arguments
        if arguments[1] in BARE:
            assert arguments[2:] == BARE[arguments[1]], arguments
            return None
        return parse_any(arguments[1], arguments[2:])
    if arguments[:1] == ["test"]:
        for before, name in itertools.pairwise(arguments):
            if before == "-m":
                assert name in MARKERS, name
                continue
            assert name.startswith("-") or (ROOT / name).exists() or " " in name, name
        return None
    if not arguments or arguments in (["lint"], ["--help"]):
        return None
    config, given = parse_with_config("vop_jax.main", arguments)
    assert config.backbone, f"{arguments} trains without a backbone"
    return config, given


@pytest.mark.parametrize("page", PAGES, ids=lambda x: str(x.relative_to(ROOT)))
def test_every_line_of_a_page_is_taken(page, stage, monkeypatch):
    monkeypatch.chdir(ROOT)
    for block in blocks(page.read_text()):
        subprocess.run(["/bin/bash", "-n", "-c", block], check=True)
        for line in started(stage, without_placeholders(block)):
            check(*line)


def test_the_lines_for_pods_start_the_main_command(stage, monkeypatch):
    monkeypatch.chdir(ROOT)
    text = (ROOT / "docs/pods.md").read_text()
    found = [line for block in blocks(text) for line in started(stage, block)]
    assert len(found) == 3
    config, given = check(*found[0])
    assert (config.dataset, config.data_dir) == ("msrvtt_9k", "gs://BUCKET/data")
    assert given["workdir"] == "gs://BUCKET/runs/vop_fc"
    assert found[0][1] == "requirements-tpu.txt"
    assert check(*found[1])[1]["workdir"] == "/shared/run"
    assert check(*found[2])[1]["process_count"] == 2


@pytest.mark.parametrize("page", PAGES, ids=lambda x: str(x.relative_to(ROOT)))
def test_flags_and_fields_in_the_text_exist(page, flag_names, monkeypatch):
    monkeypatch.chdir(ROOT)
    for span in spans(page.read_text()):
        problem = wrong_in(span, flag_names)
        assert not problem, f"`{span}`: {problem}"


@pytest.fixture(scope="module")
def flag_names():
    return all_flags()


def wrong_in(span, flag_names):
    """What is wrong with a piece of code in the text; empty if nothing is."""
    if not re.match(r"\./run\.sh|REQUIREMENTS=|(\.venv/bin/)?python|--|config\.", span):
        return ""
    known = flag_names | FOREIGN if "benchmarks." not in span else None
    for word in span.split():
        if found := re.match(r"(?:--)?config\.([\w.]*\w)", word):
            problem = unknown_field(found[1])
            # A file's name is not a field, and a group of fields may be spoken of.
            if found[1] not in ("json", "py") and "is not a field" in problem:
                return problem
        elif found := re.match(r"--([\w-]+)", word):
            if known and found[1].replace("-", "_") not in known:
                return f"no command has the flag --{found[1]}"
        elif (
            re.fullmatch(r"(vop_jax|data_pipelines|benchmarks)\.\w+", word)
            and not (ROOT / word.replace(".", "/")).with_suffix(".py").is_file()
        ):
            return f"there is no module {word}"
    return ""


@pytest.mark.parametrize(
    ("block", "error"),
    [
        ("./run.sh --config=configs/vop.py --wrkdir=x", UserError),
        ("./run.sh --config=configs/vop.py --config.epoch=3", UserError),
        ("./run.sh --config=configs/vop.py:dataset=msrvtt", UserError),
        ("REQUIREMENTS=none.txt ./run.sh", AssertionError),
        ("python -m vop_jax.evaluate --similarities=x", UserError),
        ("python -m vop_jax.search query --like=x --index=x", SystemExit),
        ("python -m vop_jax.convert --input=x --output=y --to=z", SystemExit),
        ("python -m data_pipelines.prepare --dataset=x --output=y --z=1", UserError),
        ("gcloud --command='./run.sh\n--config=configs/vop.py'", AssertionError),
        ("srun -n2 ./run.sh --config=configs/vop.py --steps=3", UserError),
        ("unheard-of --version", AssertionError),
        ("./run.sh test tests/none.py", AssertionError),
        ("./run.sh test -m none", AssertionError),
        ("python examples/none.py", AssertionError),
        ("python -m mkdocs serve", AssertionError),
    ],
)
def test_a_wrong_line_is_found(block, error, stage, monkeypatch):
    """Negative control."""
    monkeypatch.chdir(ROOT)

    def run():
        for line in started(stage, block):
            check(*line)

    with pytest.raises(error):
        run()


def test_wrong_text_is_found(flag_names):
    """Negative control."""
    assert wrong_in("--wrkdir", flag_names)
    assert wrong_in("--config.mesh.fdsp=4", flag_names)
    assert wrong_in("config.nan_polcy=stop", flag_names)
    assert wrong_in("python -m vop_jax.evalute", flag_names)
    assert not wrong_in("config.nan_policy=stop", flag_names)
    assert list(blocks("```\na\n```\n```python\nb\n```\n")) == ["a\n"]
    assert spans("```\n`a`\n```\n`b\nc`") == ["b c"]
