"""Records of shards whose checksums are right and whose content is anything."""

import subprocess
import sys
from pathlib import Path

import pytest
import tensorflow as tf

from data_pipelines.feeding import records

ROOT = Path(__file__).parents[2]
CHANGES = 2_000


def feature(*values):
    return tf.train.Feature(bytes_list=tf.train.BytesList(value=values))


# How a JPEG begins.
JPEG = b"\xff\xd8\xff\xe0\x00\x10"
FIELDS = {
    "video_id": feature(b"v0"),
    "captions": feature(b"a red circle", b"it moves up"),
    "extras": feature(b"{}"),
    "frames": feature(JPEG + bytes(300), JPEG + bytes(70)),
}
RECORD = tf.train.Example(
    features=tf.train.Features(feature=FIELDS)
).SerializeToString()


def test_all_fields_are_read():
    assert records._fields(RECORD) == {
        name: list(x.bytes_list.value) for name, x in FIELDS.items()
    }


def longer(data, of, by):
    """The same, with another length before some content."""
    place = data.index(of) - 1
    return data[:place] + bytes([data[place] + by]) + data[place + 1 :]


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (longer(RECORD, b"it moves up", 1), "it is no tf.train.Example"),
        (longer(RECORD, b"a red circle", 100), "it is no tf.train.Example"),
        # The second byte of a length goes on in the JPEG, with terabytes.
        (longer(RECORD, JPEG + bytes(300), 172), "it is no tf.train.Example"),
        (RECORD[:-1], "it is no tf.train.Example"),
        # A field of a number that there is not; all fields once more.
        (RECORD + b"\x1a\x01x", "it holds more than the fields"),
        (RECORD + RECORD, "it holds more than the fields"),
        # The length of all fields, in a byte more than it takes.
        (
            RECORD[:2] + bytes([RECORD[2] | 0x80, 0]) + RECORD[3:],
            "it holds more than the fields",
        ),
    ],
)
def test_what_was_not_written_for_its_fields_is_refused(data, says):
    with pytest.raises(ValueError, match=says):
        records._fields(data)


# In a process of its own, which TensorFlow may end.
FUZZ = """
import sys
import numpy as np
import tensorflow as tf
from data_pipelines.feeding import records

record, changes = bytes.fromhex(sys.argv[1]), int(sys.argv[2])
wanted = {"frames": tf.io.FixedLenFeature([2], tf.string)}
rng, taken = np.random.default_rng(0), 0
for _ in range(changes):
    data = bytearray(record)
    for place in rng.integers(0, len(data), rng.integers(1, 4)):
        data[place] = rng.integers(0, 256)
    try:
        frames = records._fields(bytes(data)).get("frames", [])
    except ValueError:
        continue
    if len(frames) != 2:
        continue
    found = tf.io.parse_single_example(bytes(data), wanted)["frames"]
    assert list(found.numpy()) == frames
    taken += 1
print("taken", taken)
"""


@pytest.mark.slow
def test_what_is_taken_is_read_by_tensorflow_alike():
    command = [sys.executable, "-c", FUZZ, RECORD.hex(), str(CHANGES)]
    done = subprocess.run(
        # TensorFlow's remarks hold bytes of the record.
        command,
        cwd=ROOT,
        capture_output=True,
        text=True,
        errors="replace",
    )
    assert done.returncode == 0, done.stderr[-2000:]
    taken = int(done.stdout.split("taken")[1])
    # Neither all changes are taken nor none.
    assert CHANGES // 20 < taken < CHANGES
