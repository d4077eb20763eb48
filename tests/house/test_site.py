"""The documentation's site builds without a warning, and says nothing cryptic."""

import re
import subprocess
import sys

import pytest
from pages import PAGES, ROOT


def built(folder, *arguments):
    """Builds the site as CI does."""
    return subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", *arguments],
        cwd=folder,
        env={"PATH": "/usr/bin:/bin", "PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu"},
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.slow
def test_the_site_builds_with_warnings_as_errors(tmp_path):
    done = built(ROOT, f"--site-dir={tmp_path}")
    assert done.returncode == 0, done.stderr
    for page in ("index", "glossary/index", "reference/python/index"):
        assert (tmp_path / f"{page}.html").is_file(), page
    fields = (tmp_path / "reference/configuration/index.html").read_text()
    assert "optimizer.learning_rate" in fields
    assert not (tmp_path / "tools").exists()


def test_a_broken_link_fails_the_build(tmp_path):
    """Negative control."""
    (tmp_path / "docs").mkdir()
    (tmp_path / "docs/index.md").write_text("[x](missing.md)\n")
    (tmp_path / "mkdocs.yml").write_text("site_name: x\n")
    assert built(tmp_path).returncode == 1


def test_readme_is_of_one_screen_or_two():
    words = re.findall(r"\S+", (ROOT / "README.md").read_text())
    assert 600 <= len(words) <= 900


@pytest.mark.parametrize("page", PAGES, ids=lambda x: str(x.relative_to(ROOT)))
def test_links_and_pictures_exist(page):
    for target in re.findall(r"\]\(([^)#]+)", page.read_text()):
        if "://" not in target and "reference/" not in target:
            assert (page.parent / target).exists(), target


def test_pictures_are_small():
    for picture in (ROOT / "docs/images").iterdir():
        assert picture.stat().st_size < 300_000, picture


CRYPTIC = (
    *(
        "share their cast",
        "dark-cornered",
        "pass that ceiling",
        "world is one of order",
    ),
    *("counted plainly", "held against the file", "keep freed memory", "the way back"),
    *("by their stem", "goes on where", "broken off", "is no video", "is no path"),
)


@pytest.mark.parametrize("page", PAGES, ids=lambda x: str(x.relative_to(ROOT)))
def test_sentences_that_stopped_readers_are_gone(page):
    text = " ".join(page.read_text().split())
    assert not [x for x in CRYPTIC if x in text]
