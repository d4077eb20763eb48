"""Files changed at random by Hypothesis: a true array, or one line in bounded time."""

import io
import json
import pickletools
import resource
import struct
import warnings
import zipfile
from contextlib import ExitStack

import hostile
import numpy as np
import pytest
import safetensors.numpy
import torch
from hypothesis import HealthCheck, event, given, settings
from hypothesis import strategies as st
from own_time import at_most
from torch import nn

from data_pipelines.console.errors import UserError
from vop_jax.scoring.matrix_file import read_array
from vop_jax.weights.tensors import open_weights
from vop_jax.weights.torch_pickle import Refused, read_pickle

pytestmark = pytest.mark.slow
SECONDS, MEMORY = 2, 500 << 10
EXAMPLES = settings(
    max_examples=2000,
    deadline=None,
    suppress_health_check=list(HealthCheck),
    print_blob=True,
)
EDGES = sorted(
    {x for n in (7, 8, 15, 16, 31, 32, 63, 64) for x in (2**n - 1, 2**n % 2**64)}
)


@pytest.fixture(scope="module", autouse=True)
def _memory():
    """All examples together grow the process by less than one of them may."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    yield
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < MEMORY


def state():
    torch.manual_seed(0)
    base = torch.randn(6, 5)
    named = {"a": base, "b": base.T, "c": base[1:4, ::2], "d": base.half()}
    return named | {"e": base.bfloat16(), "f": base.double(), "g": torch.zeros(0, 3)}


def torch_files():
    scripted, whole, wrapped = io.BytesIO(), io.BytesIO(), io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        module = nn.Sequential(nn.Linear(3, 2), nn.LayerNorm(2))
        torch.jit.save(torch.jit.script(module), scripted)
    torch.save(state(), whole)
    torch.save(
        {"epoch": np.int64(1), "state_dict": state()}, wrapped, pickle_protocol=4
    )
    plain = hostile.archive(hostile.tensor())
    return [x.getvalue() for x in (scripted, whole, wrapped)] + [plain]


TORCH = torch_files()
PICKLES = []
for _data in TORCH:
    with zipfile.ZipFile(io.BytesIO(_data)) as _file:
        _name = next(x for x in _file.namelist() if x.endswith("data.pkl"))
        PICKLES.append(_file.read(_name))


@st.composite
def changed(draw, data):
    """Bytes with a few places changed: bytes, numbers, slices."""
    data = bytearray(data)
    for _ in range(draw(st.integers(1, 4))):
        place = draw(st.integers(0, max(0, len(data) - 1)))
        act = draw(st.sampled_from(["byte", "number", "cut", "drop", "copy", "new"]))
        length = draw(st.integers(1, 64))
        if act == "byte" and data:
            data[place] = draw(st.integers(0, 255))
        elif act == "number":
            width = draw(st.sampled_from([1, 2, 4, 8]))
            number = draw(st.sampled_from(EDGES) | st.integers(0, 300)) % 2 ** (
                8 * width
            )
            data[place : place + width] = number.to_bytes(width, "little")
        elif act == "cut":
            del data[place:]
        elif act == "drop":
            del data[place : place + length]
        elif act == "copy":
            target = draw(st.integers(0, len(data)))
            data[target:target] = data[place : place + length]
        else:
            data[place:place] = draw(st.binary(max_size=16))
    return bytes(data)


@st.composite
def changed_pickle(draw):
    """An archive whose pickle, or one storage, is changed; with right checksums."""
    data = draw(st.sampled_from(TORCH))
    inside = draw(st.sampled_from(["pickle", "integers", "storage"]))
    buffer = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(data)) as old, zipfile.ZipFile(buffer, "w") as new:
        for info in old.infolist():
            part = old.read(info)
            if info.filename.endswith("/data.pkl") and inside == "pickle":
                part = draw(changed(part))
            elif info.filename.endswith("/data.pkl") and inside == "integers":
                part = draw(changed_integers(part))
            elif "/data/" in info.filename and inside == "storage" and part:
                values = np.frombuffer(part, np.uint8).copy()
                place = draw(st.integers(0, len(values) - 1))
                values[place] = draw(st.sampled_from([0x7F, 0xFF, 0x7C, 0xF0, 0x80]))
                part = values.tobytes()
            new.writestr(info.filename, part)
    return buffer.getvalue()


@st.composite
def changed_integers(draw, part):
    """A pickle with other numbers in its shapes, strides and sizes."""
    data, steps = bytearray(part), pickletools.genops(part)
    places = [x[2] for x in steps if x[0].name in ("BININT", "BININT1", "BININT2")]
    for place in draw(st.lists(st.sampled_from(places), min_size=1, max_size=3)):
        data[place + 1] = draw(st.integers(0, 40))
    return bytes(data)


def check(path, data, read):
    """Reads within the bounds; gives the arrays, or None with one line."""
    path.write_bytes(data)
    with at_most(SECONDS):
        try:
            found = read(path)
        except UserError as error:
            message = str(error)
            assert message.startswith(str(path))
            assert message.isprintable()
            assert len(message) < len(str(path)) + 600
            found = None
    event("refused" if found is None else "read")
    return found


def read_weights(path):
    found = {}
    with ExitStack() as stack:
        for name, tensor in open_weights(path, stack).tensors.items():
            found[name] = np.array(tensor.read())
            assert found[name].shape == tensor.shape
    return found


def assert_true(found, data):
    """Every number is finite and stands in the file."""
    for value in (found or {}).values():
        assert np.isfinite(value.astype(np.float64)).all()
        if value.tobytes() not in data:
            for number in np.unique(value.astype(value.dtype)):
                assert number.tobytes() in data


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("hostile")


@EXAMPLES
@given(st.sampled_from(TORCH).flatmap(changed))
def test_an_archive(folder, data):
    assert_true(check(folder / "x.pt", data, read_weights), data)


@EXAMPLES
@given(changed_pickle())
def test_a_pickle_in_a_good_archive(folder, data):
    assert_true(check(folder / "x.pt", data, read_weights), data)


# Opcodes in any order, most of them allowed, some with numbers as arguments.
OPCODES = st.sampled_from(
    [*b"()]}lt\x85\x86\x87NQR\x81b0aesu\x88\x89\x8f\x90\x91\x93\x94.o2"]
).map(lambda x: bytes([x]))
STEPS = st.one_of(
    OPCODES,
    st.integers(0, 20).map(lambda x: b"h" + bytes([x])),
    st.integers(0, 20).map(lambda x: b"q" + bytes([x])),
    st.integers(0, 255).map(lambda x: b"K" + bytes([x])),
    st.sampled_from(["storage", "0", "cpu", "a", "state_dict"]).map(hostile.text),
    st.sampled_from(
        [
            b"ctorch._utils\n_rebuild_tensor_v2\n",
            b"ctorch._utils\n_rebuild_parameter\n",
            b"ctorch\nFloatStorage\n",
            b"ctorch\nSize\n",
            b"ccollections\nOrderedDict\n",
            b"c__torch__\nM\n",
            b"cnumpy\ndtype\n",
            b"ctorch.jit._pickle\nrestore_type_tag\n",
        ]
    ),
    st.sampled_from(PICKLES).flatmap(
        lambda x: st.integers(0, len(x)).map(lambda n: x[2 : 2 + n])
    ),
)


@EXAMPLES
@given(st.lists(STEPS, max_size=60).map(lambda x: b"".join(x) + b"."))
def test_opcodes_in_any_order(folder, steps):
    data = hostile.archive(b"\x80\x02" + steps)
    assert_true(check(folder / "x.pt", data, read_weights), data)


def safetensors_bytes():
    named = {"a": np.arange(6, dtype=np.float32).reshape(2, 3), "b": np.ones(4, "f2")}
    return safetensors.numpy.save(named | {"c": np.float64([[1.5]])}, {"k": "v"})


SAFETENSORS = safetensors_bytes()
JSON = st.recursive(
    st.none() | st.booleans() | st.floats() | st.integers(-(2**65), 2**65) | st.text(),
    lambda x: st.lists(x, max_size=4) | st.dictionaries(st.text(), x, max_size=4),
    max_leaves=8,
)
SIZES = st.sampled_from([0, 1, 2, 3, 4, 6, 8, 16, 24, *EDGES])


@st.composite
def changed_header(draw):
    """A header with other numbers, types and names, before the same bytes."""
    length = struct.unpack_from("<Q", SAFETENSORS)[0]
    header = json.loads(SAFETENSORS[8 : 8 + length])
    for name in draw(st.lists(st.sampled_from("abcd"), min_size=1, max_size=3)):
        entry = header.setdefault(name, hostile.entry())
        act = draw(st.sampled_from(["type", "shape", "place", "any", "swap"]))
        if act == "type":
            entry["dtype"] = draw(
                st.sampled_from(["F16", "BF16", "F8_E4M3", "I64", "F64", "BOOL", "X"])
            )
        elif act == "shape":
            entry["shape"] = draw(st.lists(SIZES, max_size=20))
        elif act == "place":
            entry["data_offsets"] = draw(st.lists(SIZES, min_size=1, max_size=3))
        elif act == "any":
            header[name] = draw(JSON)
            break
        else:
            header[name], header["a"] = header["a"], header[name]
    return hostile.safetensors(header, SAFETENSORS[8 + length :])


@EXAMPLES
@given(changed(SAFETENSORS) | changed_header())
def test_a_safetensors_file(folder, data):
    assert_true(check(folder / "x.safetensors", data, read_weights), data)


def npy_bytes():
    files = []
    for value in (np.arange(12, dtype="<f4").reshape(3, 4), np.arange(5), np.eye(3)):
        buffer = io.BytesIO()
        np.save(buffer, value)
        files.append(buffer.getvalue())
    fortran = io.BytesIO()
    np.save(fortran, np.asfortranarray(np.arange(6.0).reshape(2, 3)))
    return [*files, fortran.getvalue()]


NPY = npy_bytes()
NPZ = [hostile.npz({"x.npy": x}, method) for x in NPY for method in (0, 8)]


@st.composite
def headers(draw):
    """A header of the right form with odd entries, before bytes of any count."""
    kinds = [
        "<f4",
        ">f8",
        "<i8",
        "|b1",
        "<f2",
        "|O",
        "<U4",
        "V8",
        "<c8",
        "<M8[s]",
        "f4,i4",
    ]
    header = {
        "descr": draw(st.sampled_from(kinds) | st.text(max_size=8)),
        "fortran_order": draw(st.booleans() | st.none()),
        "shape": tuple(draw(st.lists(SIZES | st.integers(-3, 8), max_size=5))),
    }
    body = draw(st.binary(max_size=96))
    return hostile.npy(header, body, draw(st.sampled_from([1, 2, 3])))


@EXAMPLES
@given(
    (st.sampled_from(NPY) | st.sampled_from(NPZ)).flatmap(changed)
    | headers()
    | headers().map(lambda x: hostile.npz({"x.npy": x}))
)
def test_an_array(folder, data):
    found = check(folder / "x.npy", data, read_array)
    if found is not None:
        assert found.dtype.kind in "fiub"
        # Either in the file, or in the one record that it packs.
        if not data.startswith(b"PK"):
            assert found.tobytes("A") in data


@EXAMPLES
@given(st.binary(max_size=400))
def test_bytes_are_not_a_pickle(data):
    """Nothing but the two errors that stand for a damaged file."""

    def find(dtype, key, numel):
        raise Refused("no storage")

    try:
        read_pickle(data, find)
    except (ValueError, Refused):
        event("refused")
