"""Hostile files of arrays: what each is, and how its bytes are made."""

import io
import json
import struct
import zipfile

import numpy as np

PROTO = b"\x80\x02"
MANY = 8_000_000


def archive(pickled, records=None, **how):
    """The bytes of an archive as torch lays it out, with this pickle."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", **how) as file:
        file.writestr("x/data.pkl", pickled)
        for name, content in (records or {"x/data/0": bytes(16)}).items():
            file.writestr(name, content)
    return buffer.getvalue()


def text(value):
    return b"X" + struct.pack("<I", len(value)) + value.encode()


def number(value):
    if value < 0 or value >= 2**31:
        raw = value.to_bytes(9, "little", signed=True)
        return b"\x8a" + bytes([len(raw)]) + raw
    return b"J" + struct.pack("<i", value)


def numbers(values):
    return b"(" + b"".join(number(x) for x in values) + b"t"


def tensor(
    shape=(2, 2),
    strides=(2, 1),
    offset=0,
    numel=4,
    key="0",
    dtype="FloatStorage",
    kind="storage",
):
    """The pickle of one tensor over a storage of 16 bytes; any part may be opcodes."""

    def part(value, write):
        return value if isinstance(value, bytes) else write(value)

    storage = b"(" + part(kind, text) + f"ctorch\n{dtype}\n".encode()
    storage += part(key, text) + text("cpu") + part(numel, number) + b"tQ"
    arguments = b"(" + storage + part(offset, number)
    arguments += part(shape, numbers) + part(strides, numbers)
    arguments += b"\x89ccollections\nOrderedDict\n)Rt"
    made = b"ctorch._utils\n_rebuild_tensor_v2\n" + arguments + b"R"
    return PROTO + b"}" + text("a") + made + b"s."


def growing(opener, levels=100, copies=10):
    """A value that holds its predecessor several times over, at each of some levels."""
    made = opener + b"q\x00"
    for i in range(levels):
        inner = b"h" + bytes([i])
        if opener == b")":
            made += b"0(" + inner * copies + b"tq" + bytes([i + 1])
        else:
            made += b"0](" + inner * copies + b"eq" + bytes([i + 1])
    return made


def colliding(count=60_000):
    """Integers of one hash."""
    prime = 2**61 - 1
    keys = ((prime * (i + 1)).to_bytes(16, "little") for i in range(count))
    return b"".join(b"\x8a\x10" + key + b"N" for key in keys)


def pickles():
    """Pickles that cost a plain unpickler, or its messages, without bound."""
    tuples, lists = growing(b")"), growing(b"]")
    long = text("__torch__." + "m" * 4_000_000)
    named = b"\x80\x04" + long + b"\x940" + b"h\x00h\x00\x93" * 100_000 + b"."
    name = f"c__torch__.{'a' * 30}\nM\n".encode()
    return {
        "nested tuples as a key": lambda: PROTO + b"}" + tuples + b"Ns.",
        "nested tuples in a set": lambda: b"\x80\x04\x8f(" + tuples + b"\x90.",
        "growing lists as a shape": lambda: tensor(shape=lists),
        "growing tuples as a shape": lambda: tensor(shape=tuples, strides=tuples),
        "growing lists as a kind": lambda: tensor(kind=lists),
        "growing tuples as a kind": lambda: tensor(kind=tuples),
        "growing lists as a key": lambda: tensor(key=lists),
        "growing lists as a count": lambda: tensor(numel=lists),
        "growing lists as an offset": lambda: tensor(offset=lists),
        "a long integer as a count": lambda: tensor(numel=b"\x8a\xff" + b"\x7f" * 255),
        "a long key": lambda: tensor(key="k" * MANY),
        "a long kind": lambda: tensor(kind="k" * MANY),
        "colliding keys": lambda: PROTO + b"}(" + colliding() + b"u.",
        "empty sets": lambda: b"\x80\x04](" + b"\x8f" * MANY + b"e.",
        "empty dictionaries": lambda: PROTO + b"](" + b"}" * MANY + b"e.",
        "empty lists": lambda: PROTO + b"](" + b"]" * MANY + b"e.",
        "marks": lambda: PROTO + b"(" * MANY + b".",
        "memos": lambda: b"\x80\x04N" + b"\x94" * MANY + b".",
        "classes": lambda: PROTO + name * (MANY // len(name)) + b".",
        "objects": lambda: (
            PROTO + b"](" + b"c__torch__\nM\n)\x81" * (MANY // 15) + b"e."
        ),
        "deep tuples": lambda: PROTO + b")" + b"\x85" * MANY + b".",
        "deep dictionaries": lambda: (
            PROTO + b"}K\x01" * 90_000 + b"N" + b"s" * 90_000 + b"."
        ),
        "one text named over and over": lambda: named,
        "one long shape in every tensor": lambda: (
            PROTO
            + b"("
            + b"K\x01" * 100_000
            + b"tq\x00"
            + b"ctorch._utils\n_rebuild_tensor_v2\nq\x01"
            + b"h\x01(N N h\x00h\x00tR0".replace(b" ", b"") * 40_000
            + b"."
        ),
        "many pairs of one list": lambda: (
            PROTO
            + b"]("
            + b"N" * 100_000
            + b"eq\x00ccollections\nOrderedDict\nq\x01"
            + b"h\x01h\x00\x85R0" * 40_000
            + b"."
        ),
        "a text as long as the file": lambda: PROTO + text("x" * MANY) + b".",
        "a name as long as the file": lambda: PROTO + b"c" + b"x" * MANY + b"\ny\n.",
        "bytes after the end": lambda: PROTO + b"}." + bytes(MANY),
        "a number for an object": lambda: b"\x80\x02Nr\xff\xff\xff\x7f.",
        "opcodes of protocol 0": lambda: b"I" + b"9" * MANY + b"\n.",
        "names that grow": lambda: (
            PROTO
            + b"}"
            + b"".join(text(f"{i:02}" * 2000) + b"}" for i in range(60))
            + tensor()[3:-1]
            + b"s" * 60
            + b"."
        ),
        "one tensor under many names": lambda: (
            PROTO
            + tensor()[2:-1]
            + b"0}("
            + b"".join(
                b"J" + struct.pack("<i", i) + b"ctorch\nSize\n" for i in range(100_000)
            )
            + b"u."
        ),
    }


def lying_size(extra=1 << 20):
    """An archive whose directory states more bytes for a record than it has."""
    count = 4 + extra // 4
    whole = bytearray(archive(tensor((count,), (1,), numel=count)))
    entry = whole.index(b"PK\x01\x02", whole.index(b"PK\x01\x02") + 1)
    struct.pack_into("<I", whole, entry + 24, 16 + extra)
    return bytes(whole)


def patched(field, value, header=b"PK\x01\x02", form="<I"):
    """A good archive with a field of the tensor's directory entry or header changed."""
    whole = bytearray(archive(tensor()))
    place = whole.index(header, whole.index(header) + 1)
    struct.pack_into(form, whole, place + field, value)
    return bytes(whole)


def many_records(count):
    """A file that is a directory of empty records."""
    entry = bytearray(46) + b"%08d"
    entry[:4], entry[28] = b"PK\x01\x02", 8
    directory = b"".join(bytes(entry) % i for i in range(count))
    end = struct.pack("<4s4H2IH", b"PK\x05\x06", 0, 0, 0, 0, len(directory), 30, 0)
    return b"PK\x03\x04" + bytes(26) + directory + end


def archives():
    """Archives that lie about their records."""
    return {
        "a size beyond the record": lambda: lying_size(),
        "a size just beyond the record": lambda: lying_size(4),
        "a packed size beyond the file": lambda: patched(20, 2**31),
        "both sizes beyond the record": lambda: patched(20, 1 << 20, form="<I"),
        "a checksum that differs": lambda: patched(16, 1),
        "a local size that differs": lambda: patched(22, 12, b"PK\x03\x04"),
        "a local checksum that differs": lambda: patched(14, 12, b"PK\x03\x04"),
        "a local name that differs": lambda: patched(30, ord("y"), b"PK\x03\x04", "B"),
        "a local name that is long": lambda: patched(26, 65535, b"PK\x03\x04", "<H"),
        "a local extra that is long": lambda: patched(28, 65535, b"PK\x03\x04", "<H"),
        "a local method that differs": lambda: patched(8, 8, b"PK\x03\x04", "<H"),
        "an offset elsewhere": lambda: patched(42, 0),
        "an offset beyond the file": lambda: patched(42, 2**31),
        "a disk elsewhere": lambda: patched(34, 7, form="<H"),
        "an extra beyond the entry": lambda: patched(30, 65535, form="<H"),
        "too many records": lambda: many_records(150_000),
        "records that are not there": lambda: many_records(50_000),
        "something before it": lambda: b"PK\x03\x04" + bytes(996) + archive(tensor()),
    }


def safetensors(header, body=b""):
    """The bytes of a file with this header, an object or its text."""
    raw = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(raw)) + raw + body


def entry(shape=(2, 2), offsets=(0, 16), dtype="F32"):
    return {"dtype": dtype, "shape": list(shape), "data_offsets": list(offsets)}


def safetensors_files():
    """Files of safetensors that no writer writes."""
    body = np.arange(4, dtype=np.float32).tobytes()
    one = json.dumps(entry())
    return {
        "a length of the header beyond the file": lambda: (
            struct.pack("<Q", 2**62) + b'{"a"'
        ),
        "deep JSON": lambda: safetensors(b'{"a":' + b"[" * MANY),
        "deep objects": lambda: safetensors(b'{"a":' * (MANY // 5)),
        "a type as long as the file": lambda: safetensors(
            {"a": entry(dtype="F" * MANY)}, body
        ),
        "a name as long as the file": lambda: safetensors({"a" * MANY: entry()}, body),
        "a name of 300": lambda: safetensors({"a" * 300: entry()}, body),
        "a name of two lines": lambda: safetensors({"a\nb": entry()}, body),
        "one name twice": lambda: safetensors(
            f'{{"a":{one},"a":{one}}}'.encode(), body
        ),
        "two tensors at one place": lambda: safetensors(
            {"a": entry(), "b": entry()}, body
        ),
        "bytes that no tensor has": lambda: safetensors({"a": entry()}, body + b"1234"),
        "a hole": lambda: safetensors({"a": entry(offsets=(4, 20))}, b"1234" + body),
        "a product that overflows": lambda: safetensors(
            {"a": entry((2**32, 2**32), (0, 16))}, body
        ),
        "a product of nothing": lambda: safetensors(
            {"a": entry((2**62, 0, 2**62), (0, 0))}
        ),
        "a hundred axes": lambda: safetensors({"a": entry([1] * 100, (0, 4))}, b"1234"),
        "many tensors": lambda: safetensors(
            {f"a{i}": entry((), (4 * i, 4 * i + 4)) for i in range(120_000)},
            bytes(480_000),
        ),
        "much metadata": lambda: safetensors({"__metadata__": {"a": "b" * MANY}}),
        "an unknown type": lambda: safetensors({"a": entry(dtype="F128")}, body),
        **{
            f"type {name}": lambda name=name, size=size: safetensors(
                {"a": entry((16 // size,), dtype=name)}, body
            )
            for name, size in (
                *(("F8_E4M3", 1), ("F8_E5M2", 1), ("F8_E8M0", 1), ("BOOL", 1)),
                *(("I8", 1), ("U16", 2), ("I32", 4), ("I64", 8), ("C64", 8)),
            )
        },
    }


def npy(header, body=b"", version=1):
    """The bytes of a .npy file with this header, a dictionary or its text."""
    raw = header if isinstance(header, bytes) else repr(header).encode()
    raw += b"\n"
    size = struct.pack("<H" if version == 1 else "<I", len(raw))
    return b"\x93NUMPY" + bytes([version, 0]) + size + raw + body


def npz(members, method=zipfile.ZIP_DEFLATED):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", method) as file:
        for name, content in members.items():
            file.writestr(name, content)
    return buffer.getvalue()


def zeros_bomb(size=100_000_000, stated=None):
    """A small .npz that unpacks to `size` zeros, whatever its records state."""
    shape = (1000, size // 4000)
    head = npy({"descr": "<f4", "fortran_order": False, "shape": shape})
    whole = bytearray(npz({"x.npy": head + bytes(size)}))
    if stated is not None:
        for header, field in ((b"PK\x03\x04", 22), (b"PK\x01\x02", 24)):
            struct.pack_into("<I", whole, whole.index(header) + field, stated)
    return bytes(whole)


def npy_files():
    """Arrays that no honest program writes."""
    good = {"descr": "<f4", "fortran_order": False, "shape": (2, 2)}
    body = bytes(16)
    pickled = io.BytesIO()
    np.save(pickled, np.array([{}]), allow_pickle=True)
    lie = bytearray(npz({"x.npy": npy(good, body)}))
    place = lie.index(b"PK\x01\x02")
    struct.pack_into("<I", lie, place + 24, 2**31)
    return {
        "a huge shape": lambda: npy(good | {"shape": (2**30, 2**30)}, body),
        "a shape that overflows": lambda: npy(good | {"shape": (2**63, 2**63)}, body),
        "a shape of nothing": lambda: npy(good | {"shape": (2**62, 0, 2**62)}),
        "a shape below zero": lambda: npy(good | {"shape": (-2, -2)}, body),
        "a shape of lists": lambda: npy(good | {"shape": [2, 2]}, body),
        "a hundred axes": lambda: npy(good | {"shape": (1,) * 100}, bytes(4)),
        "bytes too many": lambda: npy(good, bytes(20)),
        "bytes too few": lambda: npy(good, bytes(12)),
        "no shape": lambda: npy({"descr": "<f4"}, body),
        "pickled objects": lambda: pickled.getvalue(),
        "objects in a structure": lambda: npy(good | {"descr": [("a", "O")]}, body),
        "a structure": lambda: npy(good | {"descr": [("a", "<f4")]}, body),
        "complex numbers": lambda: npy(good | {"descr": "<c8", "shape": (2,)}, body),
        "text": lambda: npy(good | {"descr": "<U2", "shape": (2,)}, body),
        "dates": lambda: npy(good | {"descr": "<M8[s]", "shape": (2,)}, body),
        "a type within a type": lambda: npy(
            good | {"descr": "(2,)<f4", "shape": (2,)}, body
        ),
        "types of no bytes": lambda: npy(good | {"descr": "V0", "shape": (2**40,)}),
        "an unknown type": lambda: npy(good | {"descr": "<q9"}, body),
        "parentheses": lambda: npy(b"(" * 9000),
        "signs": lambda: npy(b"-" * 9000 + b"1"),
        "negations": lambda: npy(b"not " * 2000 + b"1"),
        "sums": lambda: npy(b"1+" * 4900 + b"1"),
        "calls": lambda: npy(b"f(" * 4900),
        "lambdas": lambda: npy(b"lambda:" * 1400 + b"1"),
        "attributes": lambda: npy(b"a" + b".a" * 4900),
        "subscripts": lambda: npy(b"a" + b"[0]" * 3000),
        "a power": lambda: npy(b"9**9**9**9"),
        "escapes": lambda: npy(
            rb"{'descr': '\d', 'fortran_order': False, 'shape': ()}"
        ),
        "a header of megabytes": lambda: npy(b" " * MANY, version=2),
        "deep brackets of megabytes": lambda: npy(b"[" * MANY, version=2),
        "version 3": lambda: npy(good, body, version=3),
        "version 9": lambda: npy(good, body, version=9),
        "a null byte": lambda: npy(b"{'descr': '<f4\0'}"),
        "no .npy in a .npz": lambda: npz({"x.npy": b"hello"}),
        "nothing in a .npz": lambda: npz({}),
        "several arrays": lambda: npz(
            {"x.npy": npy(good, body), "y.npy": npy(good, body)}
        ),
        "a size beyond the record": lambda: bytes(lie),
        "objects in a .npz": lambda: npz({"x.npy": pickled.getvalue()}),
        "too many records": lambda: many_records(150_000),
        "zeros": zeros_bomb,
        "more zeros than stated": lambda: zeros_bomb(stated=80),
    }
