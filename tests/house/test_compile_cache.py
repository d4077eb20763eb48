"""The folder of compiled programs that a test chose goes with the test."""

import warnings

import jax
import jax.numpy as jnp
import pytest

SECONDS = "jax_persistent_cache_min_compile_time_secs"
folders = []


@pytest.fixture(autouse=True)
def all_programs_are_kept():
    before = getattr(jax.config, SECONDS)
    jax.config.update(SECONDS, 0)
    yield
    jax.config.update(SECONDS, before)


def compiled(factor):
    return jax.jit(lambda x: x * factor + 1)(jnp.ones(3))


def test_one_chooses_a_folder(tmp_path):
    jax.config.update("jax_compilation_cache_dir", str(tmp_path / "xla"))
    compiled(2)
    assert any((tmp_path / "xla").iterdir())
    folders.append(tmp_path)


def test_the_next_does_not_write_there():
    assert folders
    assert jax.config.jax_compilation_cache_dir != str(folders[0] / "xla")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        compiled(3)
    assert not folders[0].exists()
