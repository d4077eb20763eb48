"""Hostile files of arrays: one line each, in bounded time and memory."""

import os
import resource
import signal
import socket
import struct
import subprocess
import sys
import time
import zipfile
from contextlib import ExitStack
from pathlib import Path

import hostile
import numpy as np
import pytest
import safetensors.numpy
import torch
from hostile import tensor
from own_time import at_most

from data_pipelines.console.errors import UserError
from data_pipelines.files import array_bytes
from vop_jax.scoring.matrix_file import read_array, read_map
from vop_jax.weights.tensors import open_weights
from vop_jax.weights.torch_reader import TorchFile
from vop_jax.weights.tuned import read_tuned

ROOT = Path(__file__).parents[2]
# Seconds of this process, and KiB.
SECONDS, MEMORY = 2, 300 << 10
# What holds no tensor, and is refused as such by who looks for a CLIP.
EMPTY = {
    "nested tuples in a set",
    "a text as long as the file",
    "a number for an object",
}
# What has to be said of some, so that the first of two guards is seen to work.
SAYS = {
    "a local name that is long": "overlaps the next record",
    "a local extra that is long": "overlaps the next record",
    "too many records": "a directory longer than any",
    "a header of megabytes": "a header of 8,000,001 bytes",
}
# What differs in fields that nothing is read by.
WHOLE = {"a disk elsewhere", "an extra beyond the entry"}


def read_weights(path):
    with ExitStack() as stack:
        found = open_weights(path, stack).tensors
        return {name: np.array(x.read()) for name, x in found.items()}


def one_line(path, read):
    """The message of a file that is refused, within the bounds."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with at_most(SECONDS), pytest.raises(UserError) as refused:
        read(path)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < MEMORY
    message = str(refused.value)
    assert message.startswith(str(path))
    assert message.isprintable()
    assert len(message) < len(str(path)) + 500
    return message


@pytest.mark.parametrize("name", hostile.pickles())
def test_pickles(tmp_path, name):
    path = tmp_path / "x.pt"
    path.write_bytes(hostile.archive(hostile.pickles()[name]()))
    if name in EMPTY:
        assert read_weights(path) == {}
    else:
        one_line(path, read_weights)


@pytest.mark.parametrize("name", hostile.archives())
def test_archives(tmp_path, name):
    path = tmp_path / "x.pt"
    path.write_bytes(hostile.archives()[name]())
    if name in WHOLE:
        assert read_weights(path)["a"].tolist() == [[0, 0], [0, 0]]
    else:
        assert SAYS.get(name, "") in one_line(path, read_weights)


@pytest.mark.parametrize("name", hostile.safetensors_files())
def test_safetensors(tmp_path, name):
    path = tmp_path / "x.safetensors"
    path.write_bytes(hostile.safetensors_files()[name]())
    one_line(path, read_weights)
    one_line(path, read_tuned)


@pytest.mark.parametrize("name", hostile.npy_files())
def test_arrays(tmp_path, name):
    path = tmp_path / "x.npy"
    path.write_bytes(hostile.npy_files()[name]())
    assert SAYS.get(name, "") in one_line(path, read_array)


def test_the_good_ones_are_good(tmp_path):
    """What the hostile files are made from."""
    path = tmp_path / "x"
    path.write_bytes(hostile.archive(tensor()))
    assert read_weights(path)["a"].shape == (2, 2)
    body = np.arange(4, dtype=np.float32).tobytes()
    path.write_bytes(hostile.safetensors({"a": hostile.entry()}, body))
    assert read_weights(path)["a"].tolist() == [[0, 1], [2, 3]]
    good = {"descr": "<f4", "fortran_order": True, "shape": (2, 2)}
    for version in (1, 2):
        path.write_bytes(hostile.npy(good, body, version))
        assert read_array(path).tolist() == [[0, 2], [1, 3]]
    whole = path.read_bytes()
    for method in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        path.write_bytes(hostile.npz({"x.npy": whole}, method))
        assert read_array(path).tolist() == [[0, 2], [1, 3]]
    np.save(tmp_path / "x.npy", np.arange(6, dtype=">i2").reshape(2, 3))
    assert read_array(tmp_path / "x.npy").tolist() == [[0, 1, 2], [3, 4, 5]]


@pytest.mark.parametrize("read", [read_weights, read_tuned, read_array])
@pytest.mark.parametrize("kind", ["pipe", "socket", "device", "folder", "nothing"])
def test_what_is_not_a_regular_file(tmp_path, monkeypatch, kind, read):
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "x"
    with ExitStack() as stack:
        if kind == "pipe":
            os.mkfifo(path)
        elif kind == "socket":
            stack.enter_context(socket.socket(socket.AF_UNIX)).bind("x")
        elif kind == "device":
            path.symlink_to("/dev/zero")
        elif kind == "folder":
            path.mkdir()
        one_line(path, read)


def save_torch(path, values):
    torch.save({name: torch.tensor(x) for name, x in values.items()}, path)


def save_bfloat16(path, values):
    named = {name: torch.tensor(x).bfloat16() for name, x in values.items()}
    torch.save(named, path)


def save_safetensors(path, values):
    safetensors.numpy.save_file(values, path)


@pytest.mark.parametrize("save", [save_torch, save_bfloat16, save_safetensors])
@pytest.mark.parametrize("kind", ["<f2", "<f4", "<f8"])
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_weights_that_are_not_finite(tmp_path, monkeypatch, save, kind, value):
    monkeypatch.setattr(array_bytes, "_BLOCK", 32)
    path, values = tmp_path / "x", np.zeros((7, 20), kind)
    save(path, {"good": values, "bad": values})
    read_weights(path)
    for place in ((0, 0), (3, 3), (6, 19)):
        damaged = values.copy()
        damaged[place] = value
        save(path, {"good": values, "bad": damaged})
        assert "x: bad holds NaN" in one_line(path, read_weights)


@pytest.mark.parametrize("save", [save_torch, save_safetensors])
def test_weights_that_float32_does_not_hold(tmp_path, save):
    path = tmp_path / "x"
    save(path, {"a": np.array([1e39])})
    assert "beyond float32" in one_line(path, read_weights)
    save(path, {"a": np.array([3e38, -3e38])})
    read_weights(path)
    save(path, {"a": np.array([1, 2])})
    assert "not floating-point numbers" in one_line(path, read_weights)


def test_what_was_tuned_is_finite(tmp_path):
    metadata = (
        '{"format": 1, "method": "vop", "num_frames": 1, "split_layer": 0, '
        '"text_layout": "prefix", "backbone_sha256": null}'
    )
    path = tmp_path / "tuned.safetensors"
    for value in (1, np.nan, np.inf):
        named = {"text_prompts": np.full((2, 3, 4), value, np.float32)}
        safetensors.numpy.save_file(named, path, {"vop_jax": metadata})
        if value == 1:
            assert read_tuned(path)[0]["text_prompts"].shape == (2, 3, 4)
        else:
            assert "text_prompts holds NaN" in one_line(path, read_tuned)


@pytest.mark.parametrize(
    ("values", "says"),
    [
        (np.array([0, 1, 3]), "holds the index 3"),
        (np.array([0, 1, -1]), "holds the index -1"),
        (np.array([0, 1, 2**63], np.uint64), "holds the index 9223372036854775808"),
        (np.array([0.0, 1, 2]), r"holds float64 \[3\]"),
        (np.array([True, False, True]), r"holds bool \[3\]"),
        (np.array([0, 1]), r"holds int64 \[2\]"),
        (np.array([[0, 1, 2]]), r"holds int64 \[1, 3\]"),
        (np.array([], int), r"holds int64 \[0\]"),
    ],
)
def test_maps(tmp_path, values, says):
    path = tmp_path / "map.npy"
    np.save(path, values)
    with pytest.raises(UserError, match=says):
        read_map(path, 3, 3)
    np.save(path, np.array([0, 2, 1], np.uint8))
    assert read_map(path, 3, 3).tolist() == [0, 2, 1]


def test_an_interrupt_is_answered_meanwhile(tmp_path):
    path = tmp_path / "x.pt"
    path.write_bytes(hostile.archive(b"\x80\x02)" + b"\x85" * 290_000 + b"."))
    # Without JAX, whose callbacks of the garbage collector drop interrupts.
    source = (
        "import sys; from pathlib import Path\n"
        "from vop_jax.weights.torch_reader import TorchFile\n"
        "assert 'jax' not in sys.modules; print('reading', flush=True)\n"
        "while True: TorchFile(Path(sys.argv[1])).close()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", source, path],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as child:
        try:
            assert child.stdout.readline() == b"reading\n"
            time.sleep(0.1)
            began = time.perf_counter()
            child.send_signal(signal.SIGINT)
            error = child.communicate(timeout=20)[1]
            assert time.perf_counter() - began < 5
        finally:
            # It reads for ever, and is waited for.
            child.kill()
    assert b"KeyboardInterrupt" in error


def test_a_name_of_a_layer_does_not_decide_how_many_are_looked_for(tmp_path):
    from vop_jax.weights.clip_names import recognise

    names = ["visual.conv1.weight", f"transformer.resblocks.{10**12}.ln_1.bias"]
    path = tmp_path / "x.safetensors"
    safetensors.numpy.save_file(dict.fromkeys(names, np.ones(2, np.float32)), path)

    def read(path):
        with ExitStack() as stack:
            recognise(open_weights(path, stack).tensors, str(path))

    assert "is not the CLIP" in one_line(path, read)
    save_safetensors(path, {"visual.conv1.weight": np.ones((0, 9), np.float32)})
    assert "is empty" in one_line(path, read)


def test_a_size_beyond_the_record_is_refused_at_every_length(tmp_path):
    """The read-out of memory behind a record: in steps, up to far beyond the file."""
    path = tmp_path / "x.pt"
    for extra in (4, 8, 64, 4096, 1 << 16, 1 << 20, 1 << 30):
        path.write_bytes(hostile.lying_size(extra))
        # Before anything of it is read.
        assert "states" in one_line(path, TorchFile)
    # Where packed and unpacked size lie together, the next record is in the way.
    for extra in (4, 64, 1 << 20):
        whole = bytearray(hostile.lying_size(extra))
        place = whole.index(b"PK\x01\x02", whole.index(b"PK\x01\x02") + 1)
        struct.pack_into("<I", whole, place + 20, 16 + extra)
        path.write_bytes(whole)
        assert "is damaged" in one_line(path, read_weights)
