"""Speed, utilisation and goodput from clocks that the tests turn."""

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import AxisType
from jax.sharding import PartitionSpec as P

from vop_jax.devices.chips import peak_flops
from vop_jax.devices.flops import count_flops
from vop_jax.training import meter
from vop_jax.training.meter import Meter


class Clock:
    def __init__(self, monkeypatch):
        self.now = 1000.0
        monkeypatch.setattr(meter.time, "perf_counter", lambda: self.now)
        monkeypatch.setattr(meter.time, "time", lambda: self.now)

    def batches(self, count, wait):
        for number in range(count):
            self.now += wait
            yield number


@pytest.fixture
def clock(monkeypatch):
    return Clock(monkeypatch)


def steps(own, clock, count, wait=1.0, work=3.0):
    for _ in own.waiting(clock.batches(count, wait)):
        clock.now += work
        own.count(100.0)


def test_figures_of_a_stretch(clock):
    own = Meter(8, started=1000.0, peak=50.0)
    steps(own, clock, 5)
    assert own.measurements() == pytest.approx(
        {
            "step_seconds": 4.0,
            "videos_per_second": 2.0,
            "data_wait_fraction": 0.25,
            "model_flops_utilisation": 100 / 4 / 50,
            "goodput": 1.0,
        }
    )


def test_goodput_is_of_the_runs_whole_life(clock):
    # A first life of 60 seconds that left 20 productive ones in its checkpoint.
    own = Meter(8, started=940.0, productive=20.0)
    steps(own, clock, 5)
    assert own.measurements()["goodput"] == pytest.approx(40 / 80)
    own.end()
    clock.now += 20
    own.begin()
    steps(own, clock, 5)
    own.lose(5)
    own.end()
    assert own.productive == pytest.approx(40)
    assert own.measurements()["goodput"] == pytest.approx(40 / 120)


def test_compiling_is_not_a_step(clock):
    own = Meter(8, started=1000.0)
    steps(own, clock, 4, wait=0.0)
    clock.now += 10
    jax.monitoring.record_event_duration_secs(
        "/jax/core/compile/backend_compile_duration", 10.0
    )
    assert own.measurements()["step_seconds"] == pytest.approx(3.0)


def test_a_real_compilation_is_noticed():
    before = meter._compiled
    jax.jit(lambda x: jnp.sin(x) * 3.25)(jnp.ones(7))
    assert meter._compiled > before


def test_flops_are_those_of_a_devices_share_and_loops_count_as_they_run():
    a, b = jnp.ones((8, 4)), jnp.ones((4, 16))
    one = 2 * 8 * 4 * 16
    assert count_flops(jnp.matmul, a, b) == one

    def loop(a, b):
        return jax.lax.scan(lambda c, _: (c + (a @ b).sum(), None), 0.0, length=5)[0]

    assert count_flops(jax.jit(loop), a, b) == 5 * one
    mesh = jax.make_mesh((8,), ("x",), axis_types=(AxisType.Auto,))
    split = jax.shard_map(
        jnp.matmul, mesh=mesh, in_specs=(P("x"), P()), out_specs=P("x")
    )
    assert count_flops(split, a, b) == one / 8


@pytest.mark.parametrize(
    ("kind", "peak"),
    [
        ("TPU v4", 275e12),
        ("TPU v5 lite", 197e12),
        ("TPU v5p", 459e12),
        ("TPU v6 lite", 918e12),
        ("NVIDIA H100 80GB HBM3", 989e12),
        ("NVIDIA A100-SXM4-80GB", 312e12),
        ("cpu", None),
    ],
)
def test_peaks_are_known_by_jaxs_names(kind, peak):
    assert peak_flops(kind) == peak
    assert peak_flops(jax.devices()[0].device_kind) is None
