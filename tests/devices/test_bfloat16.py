"""Which devices are said to multiply bfloat16 in hardware."""

from typing import NamedTuple

import pytest

from vop_jax.devices import bfloat16
from vop_jax.devices.bfloat16 import cpu_instructions, multiplies_bfloat16


class Device(NamedTuple):
    platform: str
    compute_capability: str = ""


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("flags\t\t: fpu avx512f avx512_bf16 amx_bf16\n", ("amx_bf16", "avx512_bf16")),
        ("model name\t: avx512_bf16\nflags\t\t: fpu avx512f avx512_bf16x\n", ()),
        ("flags\t\t: avx512_bf16\nflags\t\t: fpu\n", ("avx512_bf16",)),
        ("Features\t: fp asimd bf16\n", ()),
        ("", ()),
    ],
)
def test_instructions_are_read_from_the_list_of_flags(tmp_path, text, found):
    file = tmp_path / "cpuinfo"
    file.write_text(text)
    assert cpu_instructions(file) == found


def test_a_system_without_the_list_has_none(tmp_path):
    assert cpu_instructions(tmp_path / "missing") == ()


@pytest.mark.parametrize(
    ("device", "wanted"),
    [
        (Device("tpu"), True),
        (Device("gpu", "9.0"), True),
        (Device("gpu", "12.0"), True),
        (Device("gpu", "8.0"), True),
        (Device("gpu", "7.5"), False),
        # An AMD GPU names its architecture there.
        (Device("gpu", "gfx942"), True),
    ],
)
def test_accelerators(device, wanted):
    assert multiplies_bfloat16(device) is wanted


@pytest.mark.parametrize("instructions", [(), ("avx512_bf16",)])
def test_a_cpu_is_asked_for_its_instructions(monkeypatch, instructions):
    monkeypatch.setattr(bfloat16, "cpu_instructions", lambda: instructions)
    assert multiplies_bfloat16(Device("cpu")) is bool(instructions)
