"""Checkpoints: exact, verified, and never half."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from data_pipelines.errors import UserError
from vop_jax import checkpoint
from vop_jax.checkpoint import Checkpoints


def state(value=1.0):
    return {
        "prompts": {"a": jnp.full((64, 64), value), "b": optax.MaskedNode()},
        "half": jnp.full((3,), value, jnp.bfloat16),
        "step": jnp.asarray(int(value), jnp.int32),
    }


def saved(folder, values, scores=None, keep=2):
    lines = []
    checkpoints = Checkpoints(folder, keep=keep, report=lines.append)
    for n, value in enumerate(values):
        score = scores[n] if scores else None
        checkpoints.save(n + 1, state(value), {"position": n}, score)
        checkpoints.wait()
    checkpoints.close()
    # A new process has to find everything on disk.
    return Checkpoints(folder, keep=keep, report=lines.append), lines


def equal(a, b):
    leaves = zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True)
    return all(np.array_equal(x, y) and x.dtype == y.dtype for x, y in leaves)


def test_round_trip_is_exact(tmp_path):
    checkpoints, _ = saved(tmp_path, [1.0, 2.5])
    restored = checkpoints.restore(state())
    assert restored.step == 2
    assert restored.data == {"position": 1}
    assert equal(restored.state, state(2.5))


def test_nothing_saved_is_none(tmp_path):
    assert Checkpoints(tmp_path).restore(state()) is None


def damage(folder, step):
    """Flips a bit in the largest array file of a step."""
    files = [x for x in (folder / str(step) / "state").rglob("*") if x.is_file()]
    file = max(files, key=lambda x: x.stat().st_size)
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)


def noisy(seed):
    """Values that do not compress, so that the array file is mostly array."""
    values = np.random.default_rng(seed).normal(size=(64, 64))
    return state() | {"prompts": {"a": jnp.asarray(values, jnp.float32)}}


def test_a_damaged_step_is_passed_over(tmp_path):
    lines = []
    checkpoints = Checkpoints(tmp_path, report=lines.append)
    for step in (1, 2):
        checkpoints.save(step, noisy(step), {})
        checkpoints.wait()
    damage(tmp_path, 2)
    checkpoints = Checkpoints(tmp_path, report=lines.append)
    restored = checkpoints.restore(noisy(0))
    assert restored.step == 1
    assert equal(restored.state, noisy(1))
    assert len(lines) == 1
    assert "checkpoint 2" in lines[0]
    damage(tmp_path, 1)
    with pytest.raises(UserError, match=r"no checkpoint in .* is whole"):
        checkpoints.restore(noisy(0))


def test_the_fingerprints_are_what_finds_damage(tmp_path, monkeypatch):
    """Negative control: without them a changed array comes back as if it were whole."""
    checkpoints, lines = saved(tmp_path, [1.0, 2.0])
    right = checkpoint.fingerprints
    monkeypatch.setattr(
        checkpoint, "fingerprints", lambda tree: dict.fromkeys(right(tree), "changed")
    )
    with pytest.raises(UserError, match="is whole"):
        checkpoints.restore(state())
    assert len(lines) == 2


def test_the_best_is_kept_and_a_nan_is_not_the_best(tmp_path):
    scores = [10.0, 50.0, float("nan"), 20.0, None]
    checkpoints, _ = saved(tmp_path, [1.0] * 5, scores, keep=1)
    assert checkpoints.steps == [2, 5]


def test_another_model_is_refused(tmp_path):
    checkpoints, _ = saved(tmp_path, [1.0])
    with pytest.raises(UserError, match="of another model"):
        checkpoints.restore({"other": jnp.zeros(3)})
    wrong = state() | {"half": jnp.zeros(3, jnp.float32)}
    with pytest.raises(UserError, match="bfloat16"):
        checkpoints.restore(wrong)


def test_another_mesh_gets_the_same_values(tmp_path):
    checkpoints, _ = saved(tmp_path, [3.0])
    mesh = jax.make_mesh((8,), ("x",), axis_types=(jax.sharding.AxisType.Auto,))
    split = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("x"))
    everywhere = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec())
    like = jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(
            x.shape, x.dtype, sharding=split if x.ndim == 2 else everywhere
        ),
        state(),
    )
    restored = checkpoints.restore(like).state
    assert equal(restored, state(3.0))
    assert restored["prompts"]["a"].sharding == split


def test_an_uncommitted_save_is_not_there(tmp_path):
    checkpoints, _ = saved(tmp_path, [1.0])
    (tmp_path / "7.orbax-checkpoint-tmp").mkdir()
    assert Checkpoints(tmp_path).steps == [1]
    checkpoints.close()
