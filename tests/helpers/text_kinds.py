"""Kinds of text files that the project reads: valid content, and what reads it."""

import contextlib
import json
import math
from typing import ClassVar

import numpy as np
import published
import safetensors.numpy

from data_pipelines.catalog.table import DATASETS
from data_pipelines.preparing.provenance import (
    difference,
    read_provenance,
    warn_of_difference,
)
from data_pipelines.preparing.shard_files import check_extras, check_shard_files
from vop_jax.model.clip.families import SIZES
from vop_jax.model.clip.sizes import FrameRecipe
from vop_jax.runtime.metrics_log import read_metrics
from vop_jax.runtime.run_folder import RunFolder
from vop_jax.weights.backbone import check_header
from vop_jax.weights.config_file import load_size
from vop_jax.weights.locate import BACKBONE
from vop_jax.weights.open_clip_config import open_clip_says
from vop_jax.weights.preprocessing import stated_frames
from vop_jax.weights.tensors import Weights, open_weights
from vop_jax.weights.tokenizer import load_tokenizer
from vop_jax.weights.tuned import load_tuned


def finite(value):
    if isinstance(value, dict):
        return all(map(finite, value.values()))
    if isinstance(value, list | tuple):
        return all(map(finite, value))
    return not isinstance(value, float) or math.isfinite(value)


class Kind:
    """A kind of file: valid content, and what reads it."""

    def __init__(self, folder):
        self.folder = folder

    def write(self, raw):
        self.file.write_bytes(raw)


class Config(Kind):
    valid = json.loads((BACKBONE / "config.json").read_text())

    def __init__(self, folder):
        super().__init__(folder)
        self.file = folder / "config.json"
        (folder / "model.safetensors").symlink_to(BACKBONE / "model.safetensors")

    def read(self):
        size = load_size(self.folder)
        # Whatever the header lets pass is the model's own size.
        with contextlib.ExitStack() as stack:
            tensors = open_weights(self.folder / "model.safetensors", stack).tensors
            check_header(size, tensors, "model.safetensors")
        assert size.vision.layers == 4
        assert size.text.width == 64


class Tokenizer(Kind):
    valid: ClassVar = {
        "truncation": None,
        "padding": None,
        "added_tokens": [
            {"id": 5, "content": "<|startoftext|>", "special": True},
            {"id": 6, "content": "<|endoftext|>", "special": True},
        ],
        "normalizer": {
            "type": "Sequence",
            "normalizers": [
                {"type": "NFC"},
                {"type": "Replace", "pattern": {"Regex": "\\s+"}, "content": " "},
                {"type": "Lowercase"},
            ],
        },
        "pre_tokenizer": {
            "type": "Sequence",
            "pretokenizers": [
                {
                    "type": "Split",
                    "pattern": {
                        "Regex": "'s|'t|'re|'ve|'m|'ll|'d|[\\p{L}]+|[\\p{N}]|"
                        "[^\\s\\p{L}\\p{N}]+"
                    },
                    "behavior": "Removed",
                    "invert": True,
                },
                {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True},
            ],
        },
        "post_processor": {"type": "RobertaProcessing", "sep": ["<|endoftext|>", 6]},
        "model": {
            "type": "BPE",
            "unk_token": "<|endoftext|>",
            "continuing_subword_prefix": "",
            "end_of_word_suffix": "</w>",
            "fuse_unk": False,
            "vocab": {
                **{"a": 0, "t</w>": 1, "at</w>": 2, "c": 3, "b</w>": 4},
                **{"<|startoftext|>": 5, "<|endoftext|>": 6},
            },
            "merges": ["a t</w>"],
        },
    }
    size = SIZES["demo"].__class__(
        *(SIZES["demo"].vision, SIZES["demo"].text, 48, 8), vocabulary=7, eos_id=6
    )

    def __init__(self, folder):
        super().__init__(folder)
        self.file = folder / "tokenizer.json"

    def read(self):
        tokenize = load_tokenizer(self.folder, self.size, 9)
        ids = tokenize(["at b", "\U0001f431 <|endoftext|> c'at", "a" * 300, ""])
        assert ids.shape == (4, 9)
        assert ((ids == 6).sum(axis=1) == 1).all()
        assert ((ids == 5).sum(axis=1) == 1).all()
        assert ids.max() < 7


class Tuned(Kind):
    valid: ClassVar = {
        "format": 1,
        "method": "vop",
        "num_frames": 8,
        "split_layer": 4,
        "text_layout": "prefix",
        "backbone_sha256": None,
        "first_layer": 1,
        "cmm_role": "prompts",
        "renormalize_video": False,
    }

    def write(self, raw):
        named = {
            "text_prompts": np.zeros((3, 8, 64), np.float32),
            "video_prompts": np.zeros((4, 2, 64), np.float32),
        }
        text = raw.decode("utf-8", "replace")
        self.file = self.folder / "tuned.safetensors"
        safetensors.numpy.save_file(named, self.file, metadata={"vop_jax": text})

    def read(self):
        found = load_tuned(self.file, SIZES["demo"], None)
        assert finite(found.metadata)
        assert type(found.metadata.get("renormalize_video", False)) is bool


class Index(Kind):
    valid: ClassVar = {
        "metadata": {"total_size": 3},
        "weight_map": {"logit_scale": "model.safetensors"},
    }

    def __init__(self, folder):
        super().__init__(folder)
        self.file = folder / "model.safetensors.index.json"
        (folder / "model.safetensors").symlink_to(BACKBONE / "model.safetensors")

    def read(self):
        with contextlib.ExitStack() as stack:
            for tensor in open_weights(self.file, stack).tensors.values():
                assert np.isfinite(tensor.read()).all()


class OpenClip(Kind):
    valid: ClassVar = {
        "model_cfg": {
            "embed_dim": 512,
            "quick_gelu": True,
            "vision_cfg": {"layers": 12, "width": 768, "head_width": 64},
            "text_cfg": {"heads": 8, "width": 512},
        },
        "preprocess_cfg": {
            "mean": [0.48145466, 0.4578275, 0.40821073],
            "std": [0.26862954, 0.26130258, 0.27577711],
        },
    }

    def __init__(self, folder):
        super().__init__(folder)
        self.file = folder / "open_clip_config.json"

    def read(self):
        path = self.folder / "open_clip_model.safetensors"
        says = open_clip_says(self.folder, Weights(path, (path,), {}))
        assert all(type(x) is int for x in says.heads)
        assert {*says.activations} <= {"gelu", "gelu_tanh", "quick_gelu", "silu"}
        stated_frames(self.folder, 224, FrameRecipe())


class Info(Kind):
    name = "dataset_info"
    valid: ClassVar = {
        "name": "tiny",
        "version": "1.0.0",
        "fileFormat": "tfrecord",
        "splits": [
            {
                "name": "train",
                "shardLengths": ["3"],
                "filepathTemplate": "{DATASET}-{SPLIT}.{FILEFORMAT}-{SHARD_X_OF_Y}",
            }
        ],
    }
    other = ("features", None)

    def __init__(self, folder):
        super().__init__(folder)
        self.file = folder / f"{self.name}.json"
        name, valid = self.other
        valid = FeaturesFile.valid if valid is None else valid
        (folder / f"{name}.json").write_text(json.dumps(valid))

    def read(self):
        check_shard_files(self.folder)


def _feature(name, **more):
    return {"pythonClassName": f"tensorflow_datasets.core.features.{name}", **more}


class FeaturesFile(Info):
    name = "features"
    valid = _feature(
        "features_dict.FeaturesDict",
        featuresDict={
            "features": {
                "captions": _feature(
                    "sequence_feature.Sequence",
                    sequence={"feature": _feature("text_feature.Text", text={})},
                ),
                "extras": _feature("text_feature.Text", text={}),
                "video_id": _feature("text_feature.Text", text={}),
                "frames": _feature(
                    "video_feature.Video",
                    video={
                        "encodingFormat": "jpeg",
                        "shape": {"dimensions": ["8", "48", "48", "3"]},
                    },
                ),
            }
        },
    )
    other = ("dataset_info", Info.valid)


class Provenance(Kind):
    valid: ClassVar = {
        "dataset": "custom",
        "sampler": "middle",
        "num_frames": 8,
        "libraries": {"av": "1"},
        "annotations": {"rows.csv": "ab"},
        "splits": {
            "test": {"videos": 1, "captions": 2, "left_out": 0, "sha256": "ab"},
        },
    }

    def __init__(self, folder):
        super().__init__(folder)
        self.file = folder / "provenance.json"

    def read(self):
        found = read_provenance(self.folder)
        assert "\n" not in difference(self.valid, found)
        warn_of_difference(found, self.valid)


class Extras(Kind):
    valid: ClassVar = {
        "family": "still",
        "group": 0,
        "variant": 1,
        "twin": 0,
        "more": [1],
    }

    def write(self, raw):
        self.text = raw.decode("utf-8", "replace")

    def read(self):
        from data_pipelines.files.json_files import parse_json

        found = check_extras(parse_json(self.text, "extras"), "extras")
        assert finite(found)
        assert type(found.get("group", 0)) is int


class Run(Kind):
    valid: ClassVar = {
        "method": "vop",
        "backbone": "demo",
        "dataset": "demo",
        "num_frames": 8,
        "holdout": 10,
        "memory_gb": 1.0,
        "train_on_holdout": False,
        "compute": {"dtype": "float32"},
    }

    def __init__(self, folder):
        super().__init__(folder)
        self.run = RunFolder(folder)
        self.file = folder / "config.json"

    def read(self):
        if self.run.is_run():
            found = self.run.read_config()
            assert 1 <= found.get("num_frames", 1) <= 4096
            assert type(found.get("train_on_holdout", False)) is bool


class Metrics(Run):
    valid: ClassVar = {"step": 1, "loss": 2.5, "other": None}

    def __init__(self, folder):
        super().__init__(folder)
        self.file = folder / "metrics.jsonl"

    def write(self, raw):
        self.file.write_bytes(raw + b'\n{"step": 2}\n')

    def read(self):
        for line in read_metrics(self.run):
            assert type(line["step"]) is int


def _annotations(name, file):
    class Annotated(Kind):
        def __init__(self, folder):
            super().__init__(folder)
            published.FORMS[name](folder, train=2, test=2)
            self.file = folder / file
            self.valid = json.loads(self.file.read_text())

        def read(self):
            found = DATASETS[name].read(self.folder)
            for videos in found.splits.values():
                for video in videos:
                    assert video.captions
                    assert "\0" not in video.video_id

    return Annotated


class Rows(Kind):
    valid: ClassVar = {
        "video": "a/b.mp4",
        "caption": "x",
        "split": "train",
        "video_id": "b",
    }

    def __init__(self, folder):
        super().__init__(folder)
        self.file = folder / "rows.jsonl"

    def write(self, raw):
        self.file.write_bytes(
            raw + b'\n{"video": "z", "caption": "y", "split": "test"}\n'
        )

    def read(self):
        for videos in DATASETS["custom"].read(self.file).splits.values():
            for video in videos:
                (self.folder / video.files[0]).is_file()
                assert ".." not in video.files[0].split("/")


KINDS = {
    "config.json": Config,
    "tokenizer.json": Tokenizer,
    "tuned": Tuned,
    "index": Index,
    "open_clip": OpenClip,
    "dataset_info": Info,
    "features": FeaturesFile,
    "provenance": Provenance,
    "extras": Extras,
    "run": Run,
    "metrics": Metrics,
    "rows": Rows,
    "msrvtt": _annotations("msrvtt_9k", "MSRVTT_data.json"),
    "didemo": _annotations("didemo", "train_data.json"),
    "activitynet": _annotations("activitynet", "val_1.json"),
    "activitynet ids": _annotations("activitynet", "train_ids.json"),
    "vatex": _annotations("vatex", "ref_captions.json"),
}
