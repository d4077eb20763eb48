"""Checkpoints: exact, verified, and never half."""

import hashlib
import json
import threading

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from data_pipelines.console.errors import UserError
from vop_jax.training import checkpoint
from vop_jax.training.checkpoint import Checkpoints


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
    with pytest.raises(UserError, match=r"all checkpoints in .* are damaged"):
        checkpoints.restore(noisy(0))


def test_the_fingerprints_are_what_finds_damage(tmp_path, monkeypatch):
    """Negative control: without them a changed array comes back as if it were whole."""
    checkpoints, lines = saved(tmp_path, [1.0, 2.0])
    right = checkpoint.fingerprints
    monkeypatch.setattr(
        checkpoint, "fingerprints", lambda tree: dict.fromkeys(right(tree), "changed")
    )
    with pytest.raises(UserError, match="are damaged"):
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


def test_a_save_returns_before_it_is_hashed(tmp_path, monkeypatch):
    """And the arrays' memory may be given to the next step at once."""
    hash_now, right = threading.Event(), checkpoint.fingerprints

    def late(arrays):
        assert hash_now.wait(60)
        return right(arrays)

    monkeypatch.setattr(checkpoint, "fingerprints", late)
    checkpoints = Checkpoints(tmp_path)
    given = state(2.0)
    checkpoints.save(1, given, {})
    for leaf in jax.tree.leaves(given):
        leaf.delete()
    assert not (tmp_path / "1").exists()
    hash_now.set()
    checkpoints.wait()
    assert equal(checkpoints.restore(state()).state, state(2.0))


def change_notes(folder, step, what):
    file = folder / str(step) / "notes" / "notes"
    digest, text = file.read_text().split("\n")
    notes = json.loads(text)
    what(notes)
    file.write_text(f"{digest}\n{json.dumps(notes)}")


def test_changed_notes_are_found(tmp_path, monkeypatch):
    checkpoints, lines = saved(tmp_path, [1.0, 2.0])
    change_notes(tmp_path, 2, lambda notes: notes["data"].update(position=7))
    with monkeypatch.context() as patch:
        # Control: without the seal they are believed.
        patch.setattr(
            checkpoint, "open_seal", lambda text: json.loads(text.partition("\n")[2])
        )
        assert checkpoints.restore(state()).data == {"position": 7}
    assert checkpoints.restore(state()).data == {"position": 0}
    assert "its notes have changed" in lines[0]


def test_damaged_notes_are_no_other_model(tmp_path):
    """A flipped letter in a leaf's name must not end in `of another model`."""
    checkpoints, _ = saved(tmp_path, [1.0, 2.0])
    change_notes(
        tmp_path,
        2,
        lambda notes: notes["kinds"].update(hbmf=notes["kinds"].pop("half")),
    )
    assert checkpoints.restore(state()).step == 1


def test_a_checkpoint_under_another_number_is_found(tmp_path):
    checkpoints, lines = saved(tmp_path, [1.0, 2.0])
    checkpoints.close()
    (tmp_path / "2").rename(tmp_path / "5")
    checkpoints = Checkpoints(tmp_path, report=lines.append)
    assert checkpoints.restore(state()).step == 1
    assert "it is that of step 2" in lines[0]


def test_damaged_steps_are_set_aside_and_saved_again(tmp_path):
    place = tmp_path / "checkpoints"
    checkpoints, _ = saved(place, [1.0, 2.0])
    change_notes(place, 2, lambda notes: notes.update(step=9))
    assert checkpoints.restore(state()).step == 1
    assert (tmp_path / "damaged" / "2").is_dir()
    checkpoints.save(2, state(5.0), {})
    checkpoints.close()
    assert equal(Checkpoints(place).restore(state()).state, state(5.0))


def test_the_best_is_kept_over_a_restart(tmp_path):
    for step, score in enumerate([10.0, 50.0, 20.0, 30.0, None], 1):
        checkpoints = Checkpoints(tmp_path, keep=1)
        checkpoints.save(step, state(), {}, score)
        checkpoints.close()
    assert checkpoints_on_disk(tmp_path) == [2, 5]


def checkpoints_on_disk(folder):
    return sorted(int(x.name) for x in folder.iterdir() if x.name.isdigit())


@pytest.mark.parametrize(
    "score",
    [
        *("", "{", "3", '{"score": null}', "[1]", "\udcff", '{"score": NaN}'),
        *('{"score": "5"}', '{"score": [1]}', '{"score": true}', '{"other": 1}'),
        *('{"score": 1, "score": 9}', "[" * 100_000, '{"score": ' + "9" * 5000 + "}"),
    ],
    ids=lambda x: x[:16],
)
def test_a_damaged_score_costs_nothing_but_itself(tmp_path, score):
    checkpoints, _ = saved(tmp_path, [1.0, 2.0], [3.0, 4.0])
    checkpoints.close()
    (tmp_path / "1" / "metrics" / "metrics").write_bytes(
        score.encode("utf-8", "surrogateescape")
    )
    assert Checkpoints(tmp_path).restore(state()).step == 2
    assert checkpoints_on_disk(tmp_path) == [1, 2]


def test_what_a_killed_process_had_half_written_is_removed(tmp_path):
    checkpoints, _ = saved(tmp_path, [1.0])
    checkpoints.close()
    half = tmp_path / "7.orbax-checkpoint-tmp"
    (half / "state").mkdir(parents=True)
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save(8, state(), {})
    checkpoints.close()
    assert not half.exists()


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("[" * 100_000, "nested too deeply"),
        ("{", "is not JSON"),
        ("[]", "must be an object"),
        ('{"step": 1}', "lacks the key 'data'"),
        (
            '{"step": "1", "data": {}, "sha256": {}, "kinds": {}}',
            "step is .1.; it must",
        ),
        ('{"step": 1, "data": [], "sha256": {}, "kinds": {}}', "data is"),
        ('{"step": 1, "data": {}, "sha256": {"a": 1}, "kinds": {}}', "a is 1; it must"),
    ],
    ids=lambda x: x[:20],
)
def test_notes_of_another_kind_are_damage_even_under_a_right_seal(text, says):
    sealed = f"{hashlib.sha256(text.encode()).hexdigest()}\n{text}"
    with pytest.raises(checkpoint.DamageError, match=says):
        checkpoint.open_seal(sealed)
    good = {"step": 1, "data": {"a": [1]}, "sha256": {}, "kinds": {}}
    assert checkpoint.open_seal(checkpoint.seal(good)) == good
