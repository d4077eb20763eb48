"""The compute dtype of a run: resolved once, recorded, and kept when it is resumed."""

import dataclasses

import jax
import jax.numpy as jnp
import pytest
from small_job import config, data_dir, small_world  # noqa: F401

import vop_jax
from data_pipelines.console.errors import UserError
from vop_jax.model import compute
from vop_jax.runtime.run_folder import RunFolder
from vop_jax.training import loop
from vop_jax.training.config import as_begun, default_values
from vop_jax.training.job import run_job
from vop_jax.training.run import assemble


@pytest.fixture
def gains(monkeypatch):
    """This CPU multiplies bfloat16, and the demo's model is large enough."""
    monkeypatch.setattr(compute, "multiplies_bfloat16", lambda device: True)
    monkeypatch.setattr(compute, "_LEAST_WIDTH", {"cpu": 64})


def test_auto_is_the_default():
    assert default_values()["compute"]["dtype"] == "auto"


@pytest.mark.slow
def test_a_run_in_bfloat16(data_dir, tmp_path, gains, monkeypatch):
    states = []
    save = loop.Checkpoints.save

    def seen(self, step, state, *rest):
        states.append(jax.tree.map(lambda x: x.dtype, state))
        save(self, step, state, *rest)

    monkeypatch.setattr(loop.Checkpoints, "save", seen)
    folder = RunFolder(tmp_path / "run")
    results = run_job(config(data_dir, epochs=1), folder)
    assert results["dtype"] == "bfloat16"
    assert folder.read_results()["compared_with"]["zero_shot"]["dtype"] == "bfloat16"
    assert folder.read_config()["compute"]["dtype"] == "bfloat16"
    # Prompts, moments and the learning rate; the counters are integers.
    state = states[-1]
    kinds = set(jax.tree.leaves((state.trainable, state.learning_rate)))
    kinds |= {x for x in jax.tree.leaves(state.optimizer) if x != jnp.int32}
    assert kinds == {jnp.dtype("float32")}
    # What is measured afterwards is measured alike, also where `auto` differs by then.
    monkeypatch.undo()
    assert as_begun(config(data_dir, epochs=1), folder).compute.dtype == "bfloat16"
    assert (
        assemble(config(data_dir, epochs=1), folder).config.compute.dtype == "bfloat16"
    )
    with pytest.raises(UserError, match=r"compute\.dtype is 'bfloat16' there"):
        assemble(config(data_dir, epochs=1, compute__dtype="float32"), folder)
    assert vop_jax.load(str(folder.path)).dtype == "float32"


@pytest.mark.slow
def test_a_new_run_is_of_the_device(data_dir, tmp_path, monkeypatch):
    for pays, wanted in ((False, "float32"), (True, "bfloat16")):
        monkeypatch.setattr(compute, "_LEAST_WIDTH", {})
        monkeypatch.setattr(compute, "multiplies_bfloat16", lambda device, x=pays: x)
        run = assemble(config(data_dir), RunFolder(tmp_path / wanted))
        assert run.config.compute.dtype == wanted
        kernel = run.frozen["params"]["text"]["layers"]["mlp"]["fc_1"]["kernel"]
        assert kernel.dtype == jnp.dtype(wanted)


def test_an_older_run_without_the_field_was_of_float32(data_dir, tmp_path):
    folder = RunFolder(tmp_path / "run")
    values = config(data_dir).as_json()
    del values["compute"]
    folder.path.mkdir()
    folder.start(values)
    found = as_begun(config(data_dir), folder)
    assert found.compute == dataclasses.replace(found.compute, dtype="float32")
