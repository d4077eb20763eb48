"""Where a backbone is, by its name."""

import pytest

from data_pipelines.console.errors import UserError
from vop_jax.weights.locate import EMBEDDED, configured_folder, find_folder


@pytest.mark.parametrize(
    ("name", "meant"),
    [("dem", "demo"), ("demo-siglip", "demo_siglip"), ("vit_b23", "vit_b32")],
)
def test_a_misspelt_short_name_gets_the_near_ones(name, meant, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for find in (configured_folder, find_folder):
        with pytest.raises(UserError) as error:
            find(name)
        text = str(error.value)
        assert text.startswith(f"{name} does not exist; did you mean ")
        assert meant in text
        assert "\n" not in text
    (tmp_path / name).mkdir()
    assert find_folder(name).resolve() == (tmp_path / name).resolve()


def test_paths_and_right_names_get_no_suggestion(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for path in ("./dem", "runs/x/y.z!", "nowhere"):
        assert not find_folder(path).exists()
    assert {name: find_folder(name) for name in EMBEDDED} == EMBEDDED
