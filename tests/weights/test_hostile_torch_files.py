"""PyTorch files that would run code, take all memory, or hold what they do not say."""

import contextlib
import io
import os
import pickle
import resource
import struct
import warnings
import zipfile

import hostile
import numpy as np
import pytest
import torch
from hostile import tensor
from own_time import at_most
from torch import nn

from data_pipelines.console.errors import UserError
from vop_jax.weights.torch_reader import TorchFile, is_torch_zip


def archive(path, pickled, records=None, **how):
    """Writes an archive as torch lays it out, with this pickle."""
    path.write_bytes(hostile.archive(pickled, records, **how))
    return path


class Payload:
    """What a pickle of this class runs when it is read."""

    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


def payloads(marker):
    """Pickles that would make the marker file."""
    command = f"touch {marker}"
    code = f"open({str(marker)!r}, 'w')"
    proto = b"\x80\x04"

    def text(value):
        return b"X" + struct.pack("<I", len(value)) + value.encode()

    def call(module, name, argument):
        return b"c" + f"{module}\n{name}\n".encode() + text(argument) + b"\x85R."

    return {
        "os.system": call("os", "system", command),
        "posix.system": call("posix", "system", command),
        "eval": call("builtins", "eval", code),
        "exec": call("builtins", "exec", code),
        "python 2's eval": call("__builtin__", "eval", code),
        "open": call("builtins", "open", str(marker)),
        "subprocess": pickle.dumps(Payload(os.popen, command)),
        "runpy": call("runpy", "run_path", str(marker)),
        "protocol 0": pickle.dumps(Payload(eval, code), protocol=0),
        "newest protocol": pickle.dumps(Payload(eval, code), protocol=5),
        "stack global": proto
        + text("os")
        + text("system")
        + b"\x93"
        + text(command)
        + b"\x85R.",
        "a name with dots": proto
        + text("torch")
        + text("os.system")
        + b"\x93"
        + text(command)
        + b"\x85R.",
        "torch's own": call("torch", "load", str(marker)),
        "hidden in a module": b"\x80\x02c__torch__\nM\n)\x81}"
        + text("w")
        + call("os", "system", command)[:-1]
        + b"sb.",
        "through getattr": call("builtins", "getattr", "os"),
        "instance opcode": b"(" + text(command) + b"ios\nsystem\n.",
        "object opcode": b"(cos\nsystem\n" + text(command) + b"o.",
        "extension opcode": b"\x82\x01.",
        "numpy's object": call("numpy.core.multiarray", "_reconstruct", "x"),
        "state of a function": b"\x80\x02ctorch._utils\n_rebuild_tensor_v2\n}"
        + text("__globals__")
        + b"}sb.",
        "state of a storage": b"\x80\x02ctorch\nFloatStorage\n}"
        + text("dtype")
        + b"Nsb.",
        "stray backslash": b"\x80\x02cos\\h\nsystem\n.",
        "called storage": b"\x80\x02ctorch\nFloatStorage\n)R.",
    }


@pytest.mark.parametrize("name", payloads("x"))
def test_no_payload_runs(tmp_path, name):
    marker = tmp_path / "marker"
    path = archive(tmp_path / "x.pt", payloads(marker)[name])
    with pytest.raises(UserError, match=r"x\.pt"):
        TorchFile(path)
    assert os.listdir(tmp_path) == ["x.pt"]


@pytest.mark.parametrize("name", ["os.system", "stack global", "instance opcode"])
def test_a_plain_unpickler_would_have_run_it(tmp_path, name):
    """The payloads are live: this is what the reader must not do."""
    marker = tmp_path / "marker"
    pickle.loads(payloads(marker)[name])
    assert marker.exists()


def test_the_tensor_below_is_a_good_one_unchanged(tmp_path):
    with TorchFile(archive(tmp_path / "x.pt", tensor([2, 2], [2, 1]))) as file:
        assert file.read("a").shape == (2, 2)


@pytest.mark.parametrize(
    ("pickled", "says"),
    [
        (tensor([2**40], [1]), "more than the 4 elements"),
        (tensor([2**40], [0]), "more than the 4 elements"),
        (tensor([2**20, 2**20, 2**20], [0, 0, 0]), "more than the 4 elements"),
        (tensor([2, 2], [3, 1]), "more than the 4 elements"),
        (tensor([2], [1], offset=3), "more than the 4 elements"),
        (tensor([2], [1], offset=-1), "describes a tensor of shape"),
        (tensor([2], [-1], offset=3), "describes a tensor of shape"),
        (tensor([-2], [1]), "describes a tensor of shape"),
        (tensor([0], [1], offset=2**50), "beyond the end"),
        (tensor([1] * 40, [1] * 40), "describes a tensor of shape"),
        (tensor([2], [1], numel=2**50), "which has 16 bytes"),
        (tensor([2], [1], numel=-4), "which has 16 bytes"),
        (tensor([2], [1], dtype="DoubleStorage"), "which has 16 bytes"),
        (tensor([2], [1], key="9"), "lacks the record x/data/9"),
        (tensor([2], [1], key="../data.pkl"), "lacks the record"),
        (tensor([2], [1], dtype="Tensor"), r"names torch\.Tensor"),
        (tensor([2, 2], [1]), "without a storage"),
    ],
)
def test_a_tensor_is_held_against_its_storage(tmp_path, pickled, says):
    with pytest.raises(UserError, match=says):
        TorchFile(archive(tmp_path / "x.pt", pickled))


def laughs():
    """Lists of lists of lists: ten to the thirtieth of them, in a few bytes."""
    pickled = b"\x80\x02]q\x00"
    for i in range(30):
        pickled += b"](" + b"h" + bytes([i]) + b"2" * 9 + b"eq" + bytes([i + 1])
    return pickled + b"."


BOMBS = {
    "a number for an object": b"\x80\x02Nr\xff\xff\xff\x7f.",
    "lists of lists": laughs(),
    "bytes that are not there": b"\x80\x05\x96" + struct.pack("<Q", 2**40) + b".",
    "text that is not there": b"\x80\x04\x8d" + struct.pack("<Q", 2**40) + b"x.",
    "deep tuples": b"\x80\x02)" + b"\x85" * 100_000 + b".",
    "deep dictionaries": b"\x80\x02" + b"}K\x01" * 50_000 + b"N" + b"s" * 50_000 + b".",
    "a dictionary in itself": b"\x80\x02}q\x00X\x01\x00\x00\x00ah\x00s.",
    "no end": b"\x80\x02}",
    "nothing": b"",
    "no pickle": b"hello",
    "a frame too long": b"\x80\x04\x95" + struct.pack("<Q", 2**60) + b"N.",
}


@pytest.mark.parametrize("name", BOMBS)
def test_bombs_cost_nothing(tmp_path, name):
    path = archive(tmp_path / "x.pt", BOMBS[name])
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with at_most(5), contextlib.suppress(UserError), TorchFile(path) as file:
        assert not file.tensors
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100_000


def overlapping(path):
    """Two records that are the same bytes of the file."""
    content = os.urandom(2000)
    archive(path, tensor([2], [1]), {"x/data/0": bytes(16), "x/data/1": content})
    whole = bytearray(path.read_bytes())
    entry = bytes(whole[whole.rindex(b"PK\x01\x02") : whole.rindex(b"PK\x05\x06")])
    end = bytearray(whole[whole.rindex(b"PK\x05\x06") :])
    copies = b"".join(
        entry.replace(b"x/data/1", f"x/data/{n}".encode()) for n in range(2, 8)
    )
    start = whole.rindex(b"PK\x05\x06")
    for place in (8, 10):
        struct.pack_into("<H", end, place, struct.unpack_from("<H", end, place)[0] + 6)
    size = struct.unpack_from("<I", end, 12)[0]
    struct.pack_into("<I", end, 12, size + len(copies))
    path.write_bytes(bytes(whole[:start]) + copies + bytes(end))


@pytest.mark.parametrize(
    ("kind", "says"),
    [
        ("compressed", "compressed or encrypted"),
        ("../evil", "holds a record named"),
        ("/evil", "holds a record named"),
        ("..\\evil", "holds a record named"),
        ("C:/evil", "holds a record named"),
        ("twice", "two records named"),
        ("overlapping", "states more bytes than it has"),
        ("big-endian", "big-endian"),
        ("no pickle", r"no data\.pkl"),
    ],
)
def test_an_archive_is_held_against_torchs(tmp_path, kind, says):
    path, good = tmp_path / "x.pt", tensor([2], [1])
    if kind == "compressed":
        bomb = good[:-1] + b"0" * 50_000_000 + b"."
        archive(path, bomb, compression=zipfile.ZIP_DEFLATED)
        assert path.stat().st_size < 1_000_000
    elif kind == "twice":
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)
            archive(path, good, {"x/data/0": bytes(16), "x/data.pkl": good})
    elif kind == "overlapping":
        overlapping(path)
    elif kind == "big-endian":
        archive(path, good, {"x/data/0": bytes(16), "x/byteorder": b"big"})
    elif kind == "no pickle":
        with zipfile.ZipFile(path, "w") as file:
            file.writestr("a.txt", "a")
    else:
        archive(path, good, {"x/data/0": bytes(16), kind: b"evil"})
    with pytest.raises(UserError, match=says):
        TorchFile(path)
    assert os.listdir(tmp_path) == ["x.pt"]


def read_all(path):
    with TorchFile(path) as file:
        return {name: np.array(file.read(name)).tolist() for name in file.tensors}


def test_no_damage_passes_unseen(tmp_path):
    state = {"a": torch.arange(500.0), "b": torch.arange(300).reshape(20, 15)}
    path = tmp_path / "x.pt"
    torch.save(state, path)
    good, whole = read_all(path), path.read_bytes()
    rng = np.random.default_rng(0)
    refused = 0
    for cut in rng.integers(0, len(whole), 40):
        path.write_bytes(whole[:cut])
        with pytest.raises(UserError, match=r"x\.pt"):
            read_all(path)
    for place in rng.integers(0, len(whole), 120):
        changed = bytearray(whole)
        changed[place] ^= 1 << int(rng.integers(8))
        path.write_bytes(changed)
        try:
            # A byte that nothing reads, of padding or of another record, may differ.
            assert read_all(path) == good
        except UserError:
            refused += 1
    assert refused > 60


def test_what_is_no_such_file(tmp_path):
    path = tmp_path / "x.pt"
    torch.save({"a": torch.zeros(3)}, path, _use_new_zipfile_serialization=False)
    assert not is_torch_zip(path)
    with pytest.raises(UserError, match="weights_only=True and save it again"):
        TorchFile(path)
    path.write_bytes(b"GIF89a")
    with pytest.raises(UserError, match="is not a PyTorch file"):
        TorchFile(path)
    buffer = io.BytesIO()
    torch.save(nn.Linear(2, 2), buffer)
    path.write_bytes(buffer.getvalue())
    with pytest.raises(UserError, match="save the state_dict alone"):
        TorchFile(path)
