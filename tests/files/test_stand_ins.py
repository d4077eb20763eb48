"""What lies in a file's place is named, whatever reads it."""

import gzip
import io
import json
import tarfile
import zipfile

import numpy as np
import pytest

from data_pipelines.catalog.readers import read_table
from data_pipelines.console.errors import UserError
from data_pipelines.files import stand_ins
from vop_jax.model.clip.families import SIZES
from vop_jax.scoring.matrix_file import read_array
from vop_jax.weights.backbone import load_backbone
from vop_jax.weights.clip_export import convert
from vop_jax.weights.locate import BACKBONE
from vop_jax.weights.tokenizer import load_tokenizer

POINTER = (
    b"version https://git-lfs.github.com/spec/v1\n"
    b"oid sha256:a63082132ba4f97a80bea76823f544493bffa8082296d62d71581a4feff1576f\n"
    b"size 605247071\n"
)
PAGE = b"\xef\xbb\xbf\n<!DOCTYPE HTML>\n<html><body>404 Not Found</body></html>"
DENIED = b'<?xml version="1.0" encoding="UTF-8"?>\n<Error><Code>AccessDenied</Code>'


def packed(value):
    """A Flax checkpoint's first bytes: a map of strings to maps."""
    import msgpack

    return msgpack.packb(value)


def tar():
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as archive:
        archive.addfile(tarfile.TarInfo("clip/config.json"))
    return file.getvalue()


def zipped():
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("clip/config.json", "{}")
        archive.writestr("clip/model.safetensors", bytes(9))
    return file.getvalue()


def array():
    file = io.BytesIO()
    np.save(file, np.zeros(3))
    return file.getvalue()


# What torch.onnx and others write: ir_version, producer_name, a graph.
ONNX = b"\x08\x08\x12\x07pytorch\x1a\x052.1.0:\xd3\x01\n\x1d\n\x01x"
KINDS = {
    "pointer": (POINTER, "a Git LFS pointer, not the file itself; run git lfs pull"),
    "page": (PAGE, "an HTML page, as a server sends"),
    "page in lower case": (b"<html lang=en><head>", "an HTML page"),
    "denied": (DENIED, "an XML document"),
    "empty": (b"", "is empty; fetch the file itself again"),
    "hdf5": (b"\x89HDF\r\n\x1a\n" + bytes(99), "an HDF5 file, as TensorFlow and Keras"),
    "onnx": (ONNX, "an ONNX model"),
    "flax": (packed({"params": {"text_model": {}}}), "a msgpack file, as Flax writes"),
    "flax of many": (packed({f"k{i}": 0 for i in range(40)}), "a msgpack file"),
    "gguf": (b"GGUF\x03\x00\x00\x00" + bytes(99), "a GGUF file"),
    "tflite": (b"\x1c\x00\x00\x00TFL3" + bytes(99), "a TensorFlow Lite model"),
    "saved model": (b"\x08\x01\x12\xff\x08" + bytes(99), "a TensorFlow SavedModel"),
    "array": (array(), "a NumPy array, not a model"),
    "gzip": (gzip.compress(bytes(99)), "compressed by gzip; unpack it"),
    "tar": (tar(), "a tar archive"),
    "zip": (zipped(), r"holds no data\.pkl \(clip/config\.json instead\); unpack it"),
    "text": (b"Entry not found\n", r"a text file \('Entry not found'\)"),
    "json": (json.dumps({"error": "not allowed"}).encode(), "a text file"),
}


@pytest.mark.parametrize("name", ["model.safetensors", "clip.pt"])
@pytest.mark.parametrize("kind", KINDS)
def test_weights_that_are_something_else(kind, name, tmp_path):
    content, says = KINDS[kind]
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(UserError, match=says) as error:
        convert(path, tmp_path / "out", "huggingface")
    assert "\n" not in str(error.value)
    assert str(error.value).startswith(str(path))
    assert [x.name for x in tmp_path.iterdir()] == [name]


def copied(folder):
    folder.mkdir()
    for file in BACKBONE.iterdir():
        if file.is_file():
            (folder / file.name).write_bytes(file.read_bytes())
    return folder


@pytest.mark.parametrize("kind", ["pointer", "page", "denied", "empty"])
@pytest.mark.parametrize("name", ["config.json", "tokenizer.json", "model.safetensors"])
def test_a_folder_of_pointers(kind, name, tmp_path):
    content, says = KINDS[kind]
    folder = copied(tmp_path / "clip")
    (folder / name).write_bytes(content)
    with pytest.raises(UserError, match=rf"{name} .*{says}"):
        load_backbone(folder)
    if name == "tokenizer.json":
        with pytest.raises(UserError, match=says):
            load_tokenizer(folder, SIZES["demo"])


@pytest.mark.parametrize("name", ["flax_model.msgpack", "tf_model.h5", "model.onnx"])
def test_a_folder_with_other_weights_alone(name, tmp_path):
    folder = copied(tmp_path / "clip")
    (folder / "model.safetensors").unlink()
    kind = {"msgpack": "flax", "h5": "hdf5", "onnx": "onnx"}[name.rpartition(".")[2]]
    (folder / name).write_bytes(KINDS[kind][0])
    with pytest.raises(UserError, match=rf"{name} is {KINDS[kind][1]}"):
        load_backbone(folder)


def test_an_index_of_shards_that_is_a_pointer(tmp_path):
    folder = copied(tmp_path / "clip")
    (folder / "model.safetensors").unlink()
    (folder / "model.safetensors.index.json").write_bytes(POINTER)
    with pytest.raises(UserError, match=r"index\.json is a Git LFS pointer"):
        load_backbone(folder)


def test_arrays_and_annotations(tmp_path):
    for path, read in (
        (tmp_path / "sims.npy", read_array),
        (tmp_path / "train.csv", lambda path: list(read_table(path, ["video"]))),
    ):
        path.write_bytes(POINTER)
        with pytest.raises(UserError, match="a Git LFS pointer"):
            read(path)
        path.write_bytes(PAGE)
        with pytest.raises(UserError, match="an HTML page"):
            read(path)


@pytest.mark.parametrize(
    "content",
    [
        b"video,caption\nversion https.mp4,a\n",
        b"<video>,caption\n",
        b"htmlpage\n",
        b"\x08\x05\x12\x00\x00\x00\x00\x00{",
    ],
)
def test_what_looks_like_it_is_left_alone(content, tmp_path):
    """A header of 0x120508 bytes begins as an ONNX model does."""
    path = tmp_path / "x"
    path.write_bytes(content)
    stand_ins.check_stand_in(path)
    stand_ins.check_stand_in(tmp_path / "missing")
    stand_ins.check_stand_in(tmp_path)


def test_a_safetensors_file_is_never_taken_for_another(tmp_path):
    """Its first bytes are a length, any length, so its ninth decides."""
    path = tmp_path / "model.safetensors"
    for start in (b"\x08\x05\x12", b"\x85\xa3a", b"BZh9"):
        path.write_bytes(start.ljust(8, b"\0") + b'{"a":1}')
        with pytest.raises(UserError, match="damaged"):
            convert(path, tmp_path / "out", "huggingface")
