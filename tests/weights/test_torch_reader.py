"""PyTorch's files: equal to torch's own reading."""

import collections
import struct
import warnings
import zipfile
from argparse import Namespace

import numpy as np
import pytest
import torch
from hostile import tensor
from torch import nn

from data_pipelines.console.errors import UserError
from vop_jax.weights.torch_reader import TorchFile
from vop_jax.weights.torch_writer import write_torch

DTYPES = [
    torch.float32,
    torch.float16,
    torch.bfloat16,
    torch.float64,
    torch.int64,
    torch.int32,
    torch.uint8,
    torch.bool,
]


def sample():
    torch.manual_seed(0)
    base = torch.randn(6, 5)
    state = {f"all.{dtype}": (10 * base).to(dtype) for dtype in DTYPES}
    state |= {"scalar": torch.tensor(3.5), "empty": torch.zeros(0, 4)}
    state |= {"whole": base, "turned": base.T, "part": base[1:4, ::2]}
    return state | {"parameter": nn.Parameter(torch.randn(3))}


def assert_equal(file, state):
    assert file.tensors.keys() == state.keys()
    for name, value in state.items():
        ours, theirs = file.read(name), value.detach()
        if theirs.dtype == torch.bfloat16:
            ours, theirs = ours.astype(np.float32), theirs.float()
        np.testing.assert_array_equal(ours, theirs.numpy(), err_msg=name)
        assert ours.dtype == theirs.numpy().dtype
        assert file.tensors[name].shape == tuple(value.shape)


def test_a_state_dictionary_of_every_kind(tmp_path):
    torch.save(sample(), tmp_path / "x.pt")
    with TorchFile(tmp_path / "x.pt") as file:
        assert_equal(file, sample())
        assert (file.scripted, file.wrapped) == (False, "")


def test_a_module_and_its_checkpoint(tmp_path):
    module = nn.Sequential(nn.Linear(4, 3), nn.Sequential(nn.LayerNorm(3)))
    state = module.state_dict()
    torch.save(state, tmp_path / "x.pt")
    with TorchFile(tmp_path / "x.pt") as file:
        assert_equal(file, state)
    optimizer = torch.optim.AdamW(module.parameters())
    module(torch.ones(1, 4)).sum().backward()
    optimizer.step()
    whole = {"epoch": 1, "state_dict": state, "optimizer": optimizer.state_dict()}
    torch.save(whole, tmp_path / "y.pt")
    with TorchFile(tmp_path / "y.pt") as file:
        assert_equal(file, state)
        assert file.wrapped == "state_dict"


class Scripted(nn.Module):
    def __init__(self):
        super().__init__()
        self.inner = nn.Sequential(nn.Linear(4, 3), nn.LayerNorm(3))
        self.scale = nn.Parameter(torch.tensor(2.0))
        self.register_buffer("count", torch.tensor(7))

    def forward(self, x):
        return self.inner(x) * self.scale


@pytest.mark.filterwarnings("ignore:.*torch.jit.*:DeprecationWarning")
def test_a_scripted_archive(tmp_path):
    module = Scripted().half()
    torch.jit.script(module).save(str(tmp_path / "x.pt"))
    with TorchFile(tmp_path / "x.pt") as file:
        assert_equal(file, module.state_dict())
        assert file.scripted


class Listed(nn.Module):
    named: dict[str, int]

    def __init__(self):
        super().__init__()
        self.whole, self.real, self.yes = [1, 2], [1.5], [True]
        self.named = {"a": 1}
        self.pair, self.name = (1, 2.0), "x"
        self.several = [torch.zeros(2), torch.ones(2)]
        self.inner = nn.ModuleList([nn.Linear(2, 2) for _ in range(3)])

    def forward(self, x):
        for layer in self.inner:
            x = layer(x) * self.real[0] * self.named["a"] * self.pair[1]
        return x + self.several[0] + self.whole[0] if self.yes[0] else x


@pytest.mark.filterwarnings("ignore:.*torch.jit.*:DeprecationWarning")
def test_a_scripted_archive_with_lists_and_dictionaries(tmp_path):
    module = Listed()
    torch.jit.script(module).save(str(tmp_path / "x.pt"))
    with TorchFile(tmp_path / "x.pt") as file:
        assert_equal(file, module.state_dict())


@pytest.mark.parametrize("protocol", [2, 4, 5])
def test_what_stands_beside_the_weights_is_let_be(tmp_path, protocol):
    """As in published training files; none of it is a tensor, or called."""
    tied = torch.randn(3, 2)
    state = collections.OrderedDict(a=tied, b=tied, c=tied.half(), d=tied.T)
    state._metadata = collections.OrderedDict({"": {"version": 1}})
    beside = {
        "epoch": np.int64(3),
        "loss": np.float64(0.5),
        "flag": np.bool_(True),
        "seen": {1, 2},
        "kinds": frozenset("a"),
        "bytes": b"abc",
        "long": 10**40,
        "none": [None, True, 1.5, (1, "x")],
        "dtype": torch.float32,
        "device": torch.device("cpu"),
        "size": torch.Size([2, 3]),
        "optimizer": {"state": {0: {"exp_avg": tied.clone()}}, "param_groups": [{}]},
    }
    path = tmp_path / "x.pt"
    torch.save(beside | {"state_dict": state}, path, pickle_protocol=protocol)
    with TorchFile(path) as file:
        assert_equal(file, state)
    torch.save(state | beside, path, pickle_protocol=protocol)
    with TorchFile(path) as file:
        assert file.tensors.keys() == {*state, "optimizer.state.0.exp_avg"}


@pytest.mark.parametrize("value", [Namespace(lr=1), {(1, 2): 3}, {2**40: 3}, {1.5: 3}])
def test_what_has_no_business_in_a_state_dictionary(tmp_path, value):
    torch.save({"a": torch.zeros(2), "args": value}, tmp_path / "x.pt")
    with pytest.raises(UserError, match="save the state_dict alone"):
        TorchFile(tmp_path / "x.pt")


def test_an_archive_larger_than_four_gigabytes_has_long_sizes(tmp_path):
    """The same fields in a small one."""
    with zipfile.ZipFile(tmp_path / "x.pt", "w") as file:
        for name, content in (("x/data.pkl", tensor()), ("x/data/0", bytes(16))):
            with file.open(name, "w", force_zip64=True) as record:
                record.write(content)
    with TorchFile(tmp_path / "x.pt") as found:
        assert found.read("a").tolist() == [[0, 0], [0, 0]]
    whole = bytearray((tmp_path / "x.pt").read_bytes())
    place = whole.index(b"x/data/0") + len(b"x/data/0") + 4
    struct.pack_into("<Q", whole, place, 1 << 20)
    (tmp_path / "x.pt").write_bytes(whole)
    with TorchFile(tmp_path / "x.pt") as found, pytest.raises(UserError, match="two"):
        found.read("a")


@pytest.mark.parametrize("wrap", ["", "state_dict"])
def test_torch_reads_what_is_written(tmp_path, wrap):
    state = {name: value.detach() for name, value in sample().items()}
    arrays = {
        name: value.contiguous().numpy()
        for name, value in state.items()
        if value.dtype != torch.bfloat16
    }
    entries = {name: (value.shape, value.dtype) for name, value in arrays.items()}
    path = tmp_path / "x.pt"
    write_torch(path, entries, arrays.__getitem__, wrap)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        back = torch.load(path, weights_only=True)
        mapped = torch.load(path, weights_only=True, mmap=True)
    for found in (back, mapped):
        found = found[wrap] if wrap else found
        assert found.keys() == arrays.keys()
        for name in arrays:
            assert torch.equal(found[name], state[name]), name
    with TorchFile(path) as file:
        assert {name: file.read(name).tolist() for name in arrays} == {
            name: value.tolist() for name, value in arrays.items()
        }
    assert [x.name for x in tmp_path.iterdir()] == ["x.pt"]


def test_a_writer_that_fails_leaves_nothing(tmp_path):
    def read(name):
        raise RuntimeError(name)

    with pytest.raises(RuntimeError):
        write_torch(tmp_path / "x.pt", {"a": ((2,), np.dtype("<f4"))}, read)
    assert not list(tmp_path.iterdir())


# Hostile files.
