"""The JSON and the records of prepared shards, changed by somebody."""

import json
import os
import shutil
import struct
import subprocess
import sys

import numpy as np
import pytest
import tensorflow as tf
import tensorflow_datasets as tfds
from films import crc32c
from own_time import at_most

from data_pipelines.console.errors import UserError
from data_pipelines.feeding.split import load_split, split_sizes
from data_pipelines.preparing.provenance import (
    difference,
    read_provenance,
    warn_of_difference,
)
from data_pipelines.preparing.shard_files import check_extras

FRAMES = 2
JPEG = tf.io.encode_jpeg(np.zeros((8, 8, 3), np.uint8)).numpy()
PLACE = {"family": "still", "group": 0, "variant": 1, "twin": 0}


class Tiny(tfds.core.GeneratorBasedBuilder, skip_registration=True):
    """Three videos, as `VideoBuilder` writes them."""

    VERSION = tfds.core.Version("1.0.0")
    extras = json.dumps(PLACE)

    def _info(self):
        texts = tfds.features.Text
        features = {
            "video_id": texts(),
            "frames": tfds.features.Video((FRAMES, 8, 8, 3), encoding_format="jpeg"),
            "captions": tfds.features.Sequence(texts()),
            "extras": texts(),
        }
        return tfds.core.DatasetInfo(
            builder=self, features=tfds.features.FeaturesDict(features)
        )

    def _split_generators(self, dl_manager):
        return {"train": self._generate_examples()}

    def _generate_examples(self):
        for i in range(3):
            yield (
                i,
                {
                    "video_id": f"v{i}",
                    "frames": [JPEG] * FRAMES,
                    "captions": ["a", "b"],
                    "extras": self.extras,
                },
            )


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    builder = Tiny(data_dir=tmp_path_factory.mktemp("tiny"))
    builder.download_and_prepare()
    return builder.data_path


@pytest.fixture
def shards(made, tmp_path):
    return shutil.copytree(made, tmp_path / "copy")


def edit(path, *keys, value):
    content = json.loads(path.read_text())
    inner = content
    for key in keys[:-1]:
        inner = inner[key]
    inner[keys[-1]] = value
    path.write_text(json.dumps(content))


def test_shards_as_they_are(shards):
    assert list(split_sizes(shards)) == ["train"]
    split = load_split(shards, "train")
    assert sorted(split.video_ids) == ["v0", "v1", "v2"]
    assert split.extras == [PLACE] * 3
    disk = load_split(shards, "train", max_bytes=1)
    assert disk.frames[1] == split.frames[1] == [JPEG] * FRAMES


SPLIT = ("splits", 0)
SHAPE = ("featuresDict", "features", "frames", "video", "shape", "dimensions")
FEATURES = ("featuresDict", "features")
TEXT = {"pythonClassName": "tensorflow_datasets.core.features.text_feature.Text"}


@pytest.mark.parametrize(
    ("file", "keys", "value", "says"),
    [
        ("dataset_info", ("splits",), {}, "splits is .*; it must be a list"),
        ("dataset_info", ("splits",), [], "splits is .*; it must be at least 1"),
        ("dataset_info", ("splits",), [1], r"splits\[0\] is 1; it must be an object"),
        ("dataset_info", (*SPLIT, "shardLengths"), ["-1"], r"shardLengths\[0\] is"),
        ("dataset_info", (*SPLIT, "shardLengths"), [3], r"\[0\] is 3; .* a string"),
        ("dataset_info", (*SPLIT, "shardLengths"), ["9" * 400], r"shardLengths\[0\]"),
        ("dataset_info", (*SPLIT, "shardLengths"), ["4"], "3 of 4 records"),
        ("dataset_info", (*SPLIT, "shardLengths"), ["3"] * 10**4, "missing|damaged"),
        ("dataset_info", (*SPLIT, "shardLengths"), ["3"] * (10**4 + 1), "at most"),
        ("dataset_info", (*SPLIT, "shardLengths"), "3", "shardLengths is"),
        ("dataset_info", (*SPLIT, "name"), "../x", "name is .*; it must be of the"),
        ("dataset_info", (*SPLIT, "name"), "", "name is"),
        ("dataset_info", (*SPLIT, "filepathTemplate"), "/etc/{SPLIT}", "Template is"),
        ("dataset_info", (*SPLIT, "filepathTemplate"), "{A}{B}", "Template is"),
        ("dataset_info", (*SPLIT, "filepath_template"), "/a/b", "copy/b is missing"),
        ("dataset_info", ("name",), "a/b", "name is"),
        ("dataset_info", ("name",), None, "name is null"),
        ("dataset_info", ("version",), "1.0", "version is .*form"),
        ("dataset_info", ("version",), 1.0, "version is 1.0; it must be a string"),
        ("dataset_info", ("fileFormat",), "array_record", "fileFormat is"),
        ("dataset_info", ("citation",), 5, "cannot be read"),
        ("features", SHAPE, ["1000000000", "8", "8", "3"], "frames have the shape"),
        ("features", SHAPE, ["0", "8", "8", "3"], "frames have the shape"),
        ("features", SHAPE, ["2", "8", "8", "4"], "frames have the shape"),
        ("features", SHAPE, ["2", "99999", "8", "3"], "frames have the shape"),
        ("features", SHAPE, ["2", "8", "16", "3"], "square RGB frames"),
        ("features", SHAPE, ["-2", "8", "8", "3"], "dimensions.0. is"),
        ("features", SHAPE, [2, 8, 8, 3], "dimensions.0. is 2; it must be a string"),
        ("features", SHAPE, ["2"], "dimensions is .* at least 4 items"),
        ("features", SHAPE, ["3", "8", "8", "3"], "record 0: .*frames"),
        ("features", (*FEATURES, "more"), TEXT, "has 5 features, not 4"),
        ("features", (*FEATURES, "extras", "pythonClassName"), "os.system", "must be"),
        ("features", (*FEATURES, "extras"), 3, "extras is 3; it must be an object"),
        ("features", FEATURES, [], "features is .*; it must be an object"),
        ("features", ("pythonClassName",), "antigravity.X", "pythonClassName is"),
    ],
    ids=lambda x: str(x)[-24:],
)
def test_files_beside_shards_are_checked(shards, file, keys, value, says):
    edit(shards / f"{file}.json", *keys, value=value)
    with at_most(4), pytest.raises(UserError, match=says) as error:
        load_split(shards, "train")
    assert "\n" not in str(error.value)
    assert len(str(error.value)) < 400
    assert "antigravity" not in sys.modules


@pytest.mark.parametrize("file", ["dataset_info.json", "features.json"])
@pytest.mark.parametrize("content", ["", "[" * 10**5, '{"a": 1, "a": 1}', "3", None])
def test_files_beside_shards_that_are_no_json(shards, file, content):
    (shards / file).unlink()
    if content is not None:
        (shards / file).write_text(content)
    with pytest.raises(UserError) as error:
        load_split(shards, "train")
    assert str(shards) in str(error.value)
    assert "\n" not in str(error.value)


def record(**features):
    def feature(values):
        raw = [x.encode() if isinstance(x, str) else x for x in values]
        return tf.train.Feature(bytes_list=tf.train.BytesList(value=raw))

    whole = {
        "video_id": ["v"],
        "frames": [JPEG] * FRAMES,
        "captions": ["a"],
        "extras": ["{}"],
    } | features
    made = {name: feature(x) for name, x in whole.items() if x is not None}
    return tf.train.Example(
        features=tf.train.Features(feature=made)
    ).SerializeToString()


def write(shards, *records):
    (file,) = shards.glob("*.tfrecord*")
    with tf.io.TFRecordWriter(str(file)) as writer:
        for one in records:
            writer.write(one)
    count = str(len(records))
    edit(shards / "dataset_info.json", *SPLIT, "shardLengths", value=[count])
    return file


def extras(**change):
    return record(extras=[json.dumps(PLACE | change)])


@pytest.mark.parametrize(
    ("one", "says"),
    [
        (b"\x00garbage", "record 0: "),
        (b"", "record 0: "),
        (record(video_id=None), "record 0: .*video_id"),
        (record(video_id=["a", "b"]), "record 0: it has 2 texts as video_id"),
        (record(video_id=[b"\xff"]), "record 0: 'utf-8'"),
        (record(captions=[b"\xff"]), "record 0: 'utf-8'"),
        (record(captions=[]), "record 0 has no caption"),
        (record(frames=[JPEG]), "record 0: it has 1 frames, not 2"),
        (record(extras=[b"\xff"]), "record 0: 'utf-8'"),
        (record(extras=["{"]), "extras is not JSON"),
        (record(extras=["[" * 10**5]), "nested too deeply"),
        (record(extras=["[]"]), "extras of record 0 is .*; it must be an object"),
        (record(extras=["3"]), "extras of record 0 is 3"),
        (record(extras=['{"a": NaN}']), "NaN is out of range"),
        (record(extras=['{"a": ' + "9" * 5000 + "}"]), "out of range"),
        (record(extras=['{"a": 1, "a": 2}']), "appears twice"),
        (record(extras=['{"a": "\\ud800"}']), "surrogate"),
        (record(extras=['{"twin": 1}']), "lacks the key 'family'"),
        (extras(twin="1"), "twin is .1.; it must be 0 or 1"),
        (extras(twin=2), "twin is 2; it must be 0 or 1"),
        (extras(group=10**12), "group is 1000000000000; it must be at most"),
        (extras(group=-1), "group is -1; it must be at least 0"),
        (extras(variant=1.5), "variant is 1.5; it must be a whole number"),
        (extras(variant=[1]), "variant is .*; it must be a whole number"),
        (extras(family=None), "family is null; it must be a string"),
        (extras(family="x" * 10**6), "family is .* at most 100 characters"),
    ],
    ids=lambda x: x[:30] if isinstance(x, str) else "",
)
def test_a_record_of_another_kind_is_named_with_its_file(shards, one, says):
    file = write(shards, one)
    for max_bytes in (1, 1e9):
        with pytest.raises(UserError, match=says) as error:
            load_split(shards, "train", max_bytes=max_bytes)
        assert str(file) in str(error.value)
        assert "\n" not in str(error.value)
        assert len(str(error.value)) < 400


@pytest.mark.parametrize("lengths", [["0"], []])
def test_a_split_without_videos_is_refused(shards, lengths):
    write(shards)
    edit(shards / "dataset_info.json", *SPLIT, "shardLengths", value=lengths)
    for max_bytes in (0, 1e9):
        with pytest.raises(UserError, match="split train holds no video; prepare it"):
            load_split(shards, "train", max_bytes=max_bytes)


def test_some_records_with_a_place_and_some_without_are_refused(shards):
    write(shards, extras(), record())
    with pytest.raises(UserError, match="some videos of train have extras"):
        load_split(shards, "train")
    write(shards, record(extras=['{"other": [1, 2]}']), record())
    assert load_split(shards, "train").extras == [{"other": [1, 2]}, {}]
    assert check_extras({"note": "x"}, "x") == {"note": "x"}


LOAD = """
import sys
from data_pipelines.console.errors import UserError
from data_pipelines.feeding.split import load_split
try:
    load_split(sys.argv[1], "train", max_bytes=float(sys.argv[2]))
except UserError as error:
    print("refused:", error)
"""


def state(shards, length):
    """A record's length with a right checksum, which TensorFlow takes for true."""
    (file,) = shards.glob("*.tfrecord*")
    head = struct.pack("<Q", length)
    content = file.read_bytes()
    file.write_bytes(head + struct.pack("<I", crc32c(head)) + content[12:])


@pytest.mark.parametrize("length", [10**6, 2**40, 2**62, 2**64 - 16, 2**64 - 1])
def test_a_record_is_not_longer_than_its_file(shards, monkeypatch, length):
    state(shards, length)
    monkeypatch.setattr(tf.data, "TFRecordDataset", None)
    with pytest.raises(UserError, match="longer than its file"):
        load_split(shards, "train")


def test_a_pipe_in_a_shards_place_is_not_waited_for(shards):
    (file,) = shards.glob("*.tfrecord*")
    file.unlink()
    os.mkfifo(file)
    with pytest.raises(UserError, match="not a regular file"):
        load_split(shards, "train")


@pytest.mark.slow
def test_a_record_that_states_more_than_there_is_does_not_end_the_process(shards):
    state(shards, 2**40)
    program = [sys.executable, "-c", LOAD, str(shards), "1e9"]
    done = subprocess.run(program, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr[-500:]
    assert "refused:" in done.stdout
    assert "longer than its file" in done.stdout


SPLIT_MADE = {"videos": 1, "captions": 1, "left_out": 0, "sha256": "a"}


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("[" * 10**5, "nested too deeply"),
        ("{", "is not JSON"),
        ("[]", "it must be an object"),
        ('{"splits": []}', "splits is .*; it must be an object"),
        ('{"splits": {"test": 3}}', "splits.test is 3; it must be an object"),
        ('{"splits": {"test": {}}}', "splits.test lacks the key 'videos'"),
        (
            json.dumps({"splits": {"test": SPLIT_MADE | {"left_out": "1"}}}),
            "left_out is .1.; it must be a whole number",
        ),
        (
            json.dumps({"splits": {"test": SPLIT_MADE | {"videos": -1}}}),
            "videos is -1; it must be at least 0",
        ),
        (
            json.dumps({"splits": {"a\n" * 10**5: 3}}),
            "it must be an object",
        ),
        ('{"libraries": "av"}', "libraries is .*; it must be an object"),
        ('{"annotations": {"a": 3}}', "annotations.a is 3; it must be a string"),
        ('{"num_frames": "8"}', "num_frames is .8.; it must be a whole number"),
        ('{"dataset": ["custom"]}', "dataset is .*; it must be a string"),
    ],
    ids=lambda x: x[:30],
)
def test_provenance_of_another_kind_is_one_line(tmp_path, content, says):
    (tmp_path / "provenance.json").write_text(content)
    with pytest.raises(UserError, match=says) as error:
        read_provenance(tmp_path)
    assert "\n" not in str(error.value)
    assert len(str(error.value)) < 300


def test_what_a_run_was_trained_on_is_checked_before_it_is_compared():
    with pytest.raises(UserError, match=r"results\.json: data"):
        warn_of_difference({"splits": ["test"]}, {})
    said = difference({"sampler": "a" * 10**6}, {"sampler": "b\n" * 10**6})
    assert len(said) < 200
    assert "\n" not in said
