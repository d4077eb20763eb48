"""What is chosen for sets of any size, and what is left alone."""

import jax
import pytest

from vop_jax.model.clip.families import SIZES
from vop_jax.own_data.choices import (
    BATCHES_A_PASS,
    FIELDS,
    METHOD,
    MOST_EPOCHS,
    Facts,
    activation_bytes,
    choose,
)
from vop_jax.own_data.memory import free_memory
from vop_jax.runtime.run_folder import flat_fields
from vop_jax.training.config import default_values

SIZE = SIZES["vit_b32"]


def chosen(videos, *, captions=2, devices=1, memory=0, size=SIZE, given=(), **changes):
    values = flat_fields(default_values(METHOD, "custom", "vit_b32")) | changes
    facts = Facts(videos, videos * captions, devices, memory, size)
    return {x.field: x for x in choose(facts, values, {*given, *changes})}


@pytest.mark.parametrize(
    ("videos", "batch"), [(2, 2), (5, 2), (12, 4), (48, 16), (96, 32), (100_000, 32)]
)
def test_the_batch_leaves_several_of_them_to_an_epoch(videos, batch):
    found = chosen(videos)
    assert found["batch_size"].value == batch
    assert batch * BATCHES_A_PASS <= videos or batch == 2


@pytest.mark.parametrize(
    ("videos", "captions", "epochs"), [(2, 1, 40), (48, 2, 34), (9_000, 20, 5)]
)
def test_epochs_make_about_as_many_steps(videos, captions, epochs):
    found = chosen(videos, captions=captions)
    assert found["epochs"].value == epochs
    steps = videos * captions // found["batch_size"].value * epochs
    assert steps >= 200 or epochs in (5, MOST_EPOCHS)
    # A validation after each tenth.
    assert steps / found["save_every"].value <= 10


def test_a_batch_divides_over_the_devices():
    assert chosen(5, devices=8)["batch_size"].value == 8
    assert "8 devices" in chosen(5, devices=8)["batch_size"].reason
    assert chosen(48, devices=8)["batch_size"].value == 16


def test_a_batch_that_does_not_fit_is_taken_in_parts():
    one = activation_bytes(SIZE, 12)
    # The step of a batch of 16, compiled, holds 5.86 GB, and one of 8 holds 3.09 GB.
    assert one == pytest.approx((5.857e9 - 3.091e9) / 8, rel=0.05)
    assert "micro_batch" not in chosen(96, memory=100 * one)
    assert chosen(96, memory=33 * one)["micro_batch"].value == 16
    assert chosen(96, memory=one)["micro_batch"].value == 1
    assert chosen(96, memory=one, devices=8)["micro_batch"].value == 8
    # Nothing is known of the memory.
    assert "micro_batch" not in chosen(96)


def test_a_narrow_tower_learns_faster():
    assert "optimizer.learning_rate" not in chosen(48)
    narrow = SIZE.__class__(
        **vars(SIZE)
        | {"vision": SIZE.vision.__class__(**vars(SIZE.vision) | {"width": 64})}
    )
    assert chosen(48, size=narrow)["optimizer.learning_rate"].value == 1e-2


def test_a_field_that_is_set_is_left_alone_and_counts_for_the_others():
    found = chosen(48, batch_size=4)
    assert "batch_size" not in found
    assert found["epochs"].value < chosen(48)["epochs"].value
    assert not chosen(48, given=FIELDS)


def test_a_line_says_what_why_and_how_to_override():
    line = chosen(48)["batch_size"].line
    assert line.startswith("chose batch_size 16: 48 training videos")
    assert line.endswith("override with --batch_size")
    assert chosen(48)["save_every"].line.endswith("override with --config.save_every")


def test_the_free_memory_of_a_machine_is_read(tmp_path):
    device = jax.devices("cpu")[0]
    assert free_memory(device) > 0
    (tmp_path / "meminfo").write_text("MemTotal: 9 kB\nMemAvailable:    3 kB\n")
    assert free_memory(device, tmp_path / "meminfo") == 3 << 10
    assert free_memory(device, tmp_path / "none") == 0
