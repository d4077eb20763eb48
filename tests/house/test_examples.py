"""The Python of README and docs, and the examples, run as they are printed."""

import re
import runpy
import subprocess
import sys
from pathlib import Path

import pytest
from fake_hub import hub  # noqa: F401
from pages import (
    PAGES,
    ROOT,
    blocks,
    make_stage,
    python_blocks,
    started,
    without_placeholders,
)

from data_pipelines.dummy import write_dummy

# These are run elsewhere: in tests/weights, on a converted model, in tests/mteb_model,
# and in `test_notebook.py`.
ELSEWHERE = {
    ROOT / "examples" / x
    for x in ("use_in_pytorch.py", "score_with_mteb.py", "notebook.py")
}
EXAMPLES = sorted({*(ROOT / "examples").glob("*.py")} - ELSEWHERE)
# What a page's Python may need of the folder it runs in; training takes a minute.
RUN = "runs/demo_vop_fc"
# Command lines that are parsed alone, and why they cannot be run here.
PARSED_ALONE = {
    r"search serve": "ends when it is interrupted",
    r"(gs|s3)://BUCKET": "needs a bucket",
    r"--runner=": "run by tests of their own",
    r"VIDEOS|FILES|msrvtt|--similarity|/path/": "needs data that is not shipped",
    r"vit_b32|vit_l14|pe_core|siglip|\.pt\b|clip-vit": "needs weights not shipped",
    r"ablate|demo\.pretrain|benchmarks\.|configs/vop\.py($| |:method)": "takes long",
    r"vop\.json": "needs a second trained run",
    r"pod_plan": "needs libtpu",
    r"examples/use_in_pytorch": "run in tests/weights",
    r"examples/score_with_mteb": "run in tests/mteb_model",
    r"vop_jax\.main$|mkdocs": "run by tests of their own",
}


WITH_PYTHON = [x for x in PAGES if python_blocks(x.read_text())]


def alone(page):
    """The Python of a page that needs no trained run."""
    return [x for x in python_blocks(page.read_text()) if RUN not in x]


def run_blocks(page, found):
    """Runs blocks one after another, as cells of one notebook."""
    names = {"__name__": "__main__"}
    for number, block in enumerate(found):
        exec(compile(block, f"{page.name}, block {number}", "exec"), names)
    return names


@pytest.fixture
def stage(tmp_path):
    """A folder in which whatever a page starts writes down its arguments."""
    return make_stage(tmp_path)


@pytest.fixture(scope="module")
def clips(tmp_path_factory):
    """A folder with the small data set that the pages speak of."""
    folder = tmp_path_factory.mktemp("clips")
    write_dummy("custom", folder / "clips")
    return folder


def test_pages_have_python():
    assert {x.name for x in WITH_PYTHON} >= {"README.md", "quick_start.md"}


@pytest.mark.parametrize(
    "page", [x for x in WITH_PYTHON if alone(x)], ids=lambda x: x.name
)
def test_the_python_of_a_page_runs(page, clips, monkeypatch):
    """Blocks that need a trained run are left to the slow test below."""
    monkeypatch.chdir(clips)
    run_blocks(page, alone(page))


def test_a_block_that_fails_is_found():
    """Negative control."""
    page = "```python\nx = 1\n```\n```\ny\n```\n```python\nassert x == 2\n```\n"
    with pytest.raises(AssertionError):
        run_blocks(Path("page.md"), python_blocks(page))


def command(folder, *arguments):
    """Runs `python ARGUMENTS` in a folder, as a reader would."""
    done = subprocess.run(
        [sys.executable, *arguments],
        cwd=folder,
        env={"PYTHONPATH": str(ROOT), "PATH": "/usr/bin:/bin", "JAX_PLATFORMS": "cpu"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, f"{arguments}\n{done.stdout}\n{done.stderr}"
    return done.stdout


@pytest.fixture(scope="module")
def desk(clips):
    """The same folder with the configs and a run, trained by the real command."""
    (clips / "configs").symlink_to(ROOT / "configs")
    command(
        *(clips, "-m", "data_pipelines.prepare", "--dataset=custom", "--output=data"),
        *("--videos=clips/videos", "--annotations=clips/annotations"),
        *("--image_size=48", "--num_frames=8"),
    )
    short_form = "method=vop_fc,dataset=custom,backbone=demo"
    command(
        *(clips, "-m", "vop_jax.main", f"--config=configs/vop.py:{short_form}"),
        *("--config.epochs=1", "--config.batch_size=4", "--config.num_frames=8"),
        f"--workdir={RUN}",
    )
    return clips


@pytest.mark.slow
@pytest.mark.usefixtures("hub")
@pytest.mark.filterwarnings("ignore:Use 'content:DeprecationWarning")
@pytest.mark.parametrize("page", WITH_PYTHON, ids=lambda x: x.name)
def test_all_python_of_a_page_runs_with_a_trained_run(page, desk, monkeypatch):
    monkeypatch.chdir(desk)
    run_blocks(page, python_blocks(page.read_text()))


def runnable(page, stage):
    """The lines of a page that can be run here, as arguments of Python."""
    for block in blocks(page.read_text()):
        for program, _, arguments in started(stage, without_placeholders(block)):
            if program.endswith("run.sh"):
                arguments = ["-m", "vop_jax.main", *arguments]
            line = " ".join(arguments)
            if not any(re.search(pattern, line) for pattern in PARSED_ALONE):
                yield arguments


@pytest.mark.slow
@pytest.mark.parametrize(
    "page", [x for x in PAGES if x.parent.name != "custom"], ids=lambda x: x.stem
)
def test_the_commands_of_a_page_run(page, desk, stage):
    for arguments in runnable(page, stage):
        if "data_pipelines.dummy" in arguments and (desk / "clips").exists():
            # The folder it would write is there already.
            arguments = [x.replace("=clips", f"=again_{page.stem}") for x in arguments]
        if arguments[1:3] == ["vop_jax.main", "test"] or "lint" in arguments:
            continue
        command(desk, *arguments)


def test_commands_that_run_are_found(stage):
    lines = [" ".join(x) for x in runnable(ROOT / "docs" / "your_videos.md", stage)]
    assert any("vop_jax.search index" in x for x in lines)
    assert any("vop_jax.search query" in x for x in lines)
    assert not any("search serve" in x for x in lines)


@pytest.mark.slow
@pytest.mark.parametrize("path", EXAMPLES, ids=lambda x: x.stem)
def test_an_example_runs(path, clips, tmp_path):
    given = {"embed_and_search": [str(clips / "clips/videos"), "a large triangle"]}
    assert command(tmp_path, str(path), *given.get(path.stem, []))


def test_no_figure_of_the_reference_is_written_by_hand():
    """Both pages come from the code; `docs/reference` stays empty."""
    assert not (ROOT / "docs" / "reference").exists()


def test_the_configuration_page_holds_every_field():
    page = runpy.run_path(str(ROOT / "docs/tools/reference.py"))["configuration_page"]()
    from vop_jax.training.fields import all_fields

    for field in all_fields():
        assert f"`{field.name}`" in page
        assert field.meaning


def test_the_python_page_holds_every_public_name():
    import vop_jax

    page = runpy.run_path(str(ROOT / "docs/tools/reference.py"))["python_page"]()
    for name in vop_jax.__all__:
        if not name.startswith("__"):
            assert f"## vop_jax.{name}\n" in page
    for name in ("encode_videos", "from_pretrained", "push_to_hub"):
        assert f"### Model.{name}" in page
    assert "- `path`: a run's folder" in page
