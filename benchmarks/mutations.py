"""Mutates weight files of a tiny CLIP; a seed decides how."""

import io
import itertools
import json
import pickletools
import struct
import zipfile
from typing import Any

import numpy as np

from vop_jax.model.clip.sizes import ClipSize, TextSize, VisionSize

SIZE = ClipSize(
    vision=VisionSize(width=64, layers=2, heads=1, mlp=64),
    text=TextSize(width=64, layers=2, heads=1, mlp=64),
    image_size=16,
    patch_size=8,
    vocabulary=50,
    context_length=8,
    embedding=16,
    eos_id=49,
)
KINDS = ("bytes", "numbers", "slices", "inside", "values", "sizes")
# The tensor whose rows decide a size of the model, so that more of them fit.
ROWS = "token_embedding.weight"


def mutate(good: bytes, kind: str, rng: np.random.Generator) -> bytes:
    """A file changed in one way; `rng` decides the rest."""
    zipped = good.startswith(b"PK")
    if kind == "sizes":
        return _sizes_in_zip(good, rng) if zipped else _sizes_in_header(good, rng)
    if kind == "values":
        return _values(good, rng)
    if kind == "inside":
        return _inside(good, rng)
    changed = bytearray(good)
    for _ in range(rng.integers(1, 5)):
        _CHANGES[kind](changed, _place(changed, zipped, rng), rng)
    return bytes(changed)


def _place(data: bytes | bytearray, zipped: bool, rng: np.random.Generator) -> int:
    """A place, mostly where the file describes itself."""
    length = max(1, len(data))
    where = rng.random()
    if where < 0.1:
        return int(rng.integers(length))
    if not zipped:
        return int(rng.integers(min(length, 8 if where < 0.3 else 8000)))
    directory = max(0, bytes(data).find(b"PK\x01\x02"))
    if where < 0.6:
        return int(rng.integers(min(directory, length - 1), length))
    return int(rng.integers(min(length, 12_000)))


def _bytes(data: bytearray, place: int, rng: np.random.Generator) -> None:
    if place < len(data):
        data[place] = rng.integers(256) if rng.random() < 0.5 else data[place] ^ 1


def _numbers(data: bytearray, place: int, rng: np.random.Generator) -> None:
    """A number in the place of another, of a size that is common or meets a limit."""
    form = str(rng.choice(["<B", "<H", "<I", "<Q"]))
    width = struct.calcsize(form)
    if place + width > len(data):
        return
    (old,) = struct.unpack_from(form, data, place)
    edges = [0, 1, old + 1, old - 1, 2 * old, old + 64, old + 4096, len(data)]
    edges += [2 ** (8 * width) - 1, 2 ** (8 * width - 1), 2 ** (8 * width - 1) - 1]
    number = int(rng.choice(np.array(edges, object))) % 2 ** (8 * width)
    struct.pack_into(form, data, place, number)


def _slices(data: bytearray, place: int, rng: np.random.Generator) -> None:
    length = int(2 ** rng.integers(0, 12))
    part = bytes(data[place : place + length])
    target = int(rng.integers(len(data) + 1))
    act = rng.integers(4)
    if act == 0:
        del data[place:]
    elif act == 1:
        del data[place : place + length]
    elif act == 2:
        data[target:target] = part
    else:
        data[place : place + length] = rng.bytes(len(part))


def _inside(good: bytes, rng: np.random.Generator) -> bytes:
    """The pickle or the header changed, and what surrounds it made right again."""

    def changed(part: bytes) -> bytes:
        data = bytearray(part)
        for _ in range(rng.integers(1, 4)):
            place = int(rng.integers(max(1, len(data))))
            if data[place : place + 1]:
                _CHANGES[str(rng.choice(list(_CHANGES)))](data, place, rng)
        return bytes(data)

    if good.startswith(b"PK"):
        change = _integers if rng.random() < 0.5 else lambda part, _: changed(part)
        return _rezip(good, lambda name, x: change(x, rng) if "data.pkl" in name else x)
    length = struct.unpack_from("<Q", good)[0]
    header = changed(good[8 : 8 + length])
    return struct.pack("<Q", len(header)) + header + good[8 + length :]


def _integers(pickled: bytes, rng: np.random.Generator) -> bytes:
    """A shape, stride, offset or count of a pickle changed, or several of them."""
    data = bytearray(pickled)
    steps = [x for x in pickletools.genops(pickled) if x[0].name.startswith("BININT")]
    for _ in range(rng.integers(1, 3)):
        opcode, found, place = steps[int(rng.integers(len(steps)))]
        value, place = int(found or 0), int(place or 0)
        near = [0, 1, value - 1, value + 1, 2 * value, value // 2, SIZE.vision.width]
        form = {"BININT1": "<B", "BININT2": "<H"}.get(opcode.name, "<i")
        number = int(rng.choice(near)) % 2 ** (8 * struct.calcsize(form) - 1)
        struct.pack_into(form, data, place + 1, number)
    return bytes(data)


def _rezip(good: bytes, change: Any) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(good)) as old, zipfile.ZipFile(buffer, "w") as new:
        for info in old.infolist():
            new.writestr(info.filename, change(info.filename, old.read(info)))
    return buffer.getvalue()


def _values(good: bytes, rng: np.random.Generator) -> bytes:
    """Numbers that are not finite, in one tensor."""
    bad = float(rng.choice([np.nan, np.inf, -np.inf]))

    def spoilt(part: bytes, kind: str) -> bytes:
        values = np.frombuffer(part, kind).copy()
        values[rng.integers(len(values))] = bad
        return values.tobytes()

    if not good.startswith(b"PK"):
        length = 8 + struct.unpack_from("<Q", good)[0]
        return good[:length] + spoilt(good[length:], "<f4")
    with zipfile.ZipFile(io.BytesIO(good)) as file:
        storages = [x.filename for x in file.infolist() if "/data/" in x.filename]
        kind = "<f2" if storages[0].startswith("float16") else "<f4"
    chosen = str(rng.choice(storages))
    return _rezip(good, lambda name, x: spoilt(x, kind) if name == chosen else x)


def _sizes_in_zip(good: bytes, rng: np.random.Generator) -> bytes:
    """More rows of a tensor stated everywhere, while its record has no more bytes."""
    more = int(rng.choice([1, 2, 16, 200, 5000]))
    with zipfile.ZipFile(io.BytesIO(good)) as file:
        root = file.namelist()[0].split("/")[0]
        pickled = file.read(f"{root}/data.pkl")
    rows, width = SIZE.vocabulary, SIZE.vision.width
    key, (numel, after), (shape, behind) = _places(pickled, rows, rows * width)
    pickled = (
        pickled[:numel]
        + b"J"
        + struct.pack("<i", (rows + more) * width)
        + pickled[after:shape]
        + b"J"
        + struct.pack("<i", rows + more)
        + pickled[behind:]
    )
    whole = bytearray(
        _rezip(good, lambda name, x: pickled if name.endswith("data.pkl") else x)
    )
    with zipfile.ZipFile(io.BytesIO(bytes(whole))) as file:
        info = file.getinfo(f"{root}/data/{key}")
        directory = file.start_dir
    entry = whole.index(info.filename.encode(), directory) - 46
    size = info.file_size * (rows + more) // rows
    # The unpacked size, the packed one, the same in the record's own header.
    for place, chance in (
        (entry + 24, 1),
        (entry + 20, 0.5),
        (info.header_offset + 22, 0.5),
        (info.header_offset + 18, 0.5),
    ):
        if rng.random() < chance:
            struct.pack_into("<I", whole, place, size)
    return bytes(whole)


def _places(pickled: bytes, rows: int, numel: int) -> tuple[str, Any, Any]:
    """Of the tensor `ROWS`: its record's key, and where two numbers begin and end."""
    found: list[tuple[int, int]] = []
    named, key = False, ""
    steps = list(pickletools.genops(pickled))
    for (_, value, place), (_, _, end) in itertools.pairwise(steps):
        if isinstance(value, str) and value.endswith(ROWS):
            named = True
        elif named and isinstance(value, str) and value.isdecimal():
            key = value
        elif named and key and value == (rows if found else numel):
            found.append((place or 0, end or 0))
            if len(found) == 2:
                return key, found[0], found[1]
    raise AssertionError("the pickle has another form")


def _sizes_in_header(good: bytes, rng: np.random.Generator) -> bytes:
    """Shapes and places of safetensors that do not belong together."""
    length = struct.unpack_from("<Q", good)[0]
    header = json.loads(good[8 : 8 + length])
    names = [name for name in header if name != "__metadata__"]
    for name in (ROWS, str(rng.choice(names)))[: rng.integers(1, 3)]:
        entry, more = header[name], int(rng.choice([-1, 1, 7, 5000, 2**40]))
        if rng.random() < 0.7 and entry["shape"]:
            entry["shape"][0] += more
        if rng.random() < 0.7:
            width = 4 * int(np.prod(entry["shape"][1:]))
            entry["data_offsets"][int(rng.integers(2))] += more * width
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + good[8 + length :]


_CHANGES = {"bytes": _bytes, "numbers": _numbers, "slices": _slices}
