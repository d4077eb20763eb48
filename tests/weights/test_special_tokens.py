"""Which token ends a caption: the tokenizer decides, or nothing does."""

import dataclasses
import json

import numpy as np
import pytest
import torch
from small_clip import SMALL, folder_of, openai_file

from data_pipelines.console.errors import UserError
from vop_jax.api import load
from vop_jax.weights.backbone import load_backbone
from vop_jax.weights.clip_export import convert
from vop_jax.weights.config_file import load_size, save_size
from vop_jax.weights.locate import BACKBONE


def write_tokenizer(folder, start=49406, end=49407, names=("startoftext", "endoftext")):
    vocabulary = {
        "a</w>": 5,
        "!": 0,
        **{f"<|{x}|>": i for x, i in zip(names, (start, end), strict=True)},
    }
    added = [{"id": end + 1, "content": "<video>"}, {"id": end + 2, "content": "<sep>"}]
    values = {"model": {"type": "BPE", "vocab": vocabulary}, "added_tokens": added}
    (folder / "tokenizer.json").write_text(json.dumps(values))


LONGER = dataclasses.replace(SMALL, vocabulary=49410)


def sized(folder, size, eos):
    """A folder with the config.json of a size and an `eos_token_id`."""
    folder.mkdir(exist_ok=True)
    save_size(folder, size)
    values = json.loads((folder / "config.json").read_text())
    values["text_config"]["eos_token_id"] = eos
    (folder / "config.json").write_text(json.dumps(values))
    return folder


def test_a_file_of_2021_with_clips_own_vocabulary(tmp_path):
    assert load_size(sized(tmp_path / "a", SMALL, 2)).eos_id == 49407


def test_with_added_tokens_the_tokenizer_decides(tmp_path):
    folder = sized(tmp_path / "a", LONGER, 2)
    with pytest.raises(
        UserError, match=r"which token ends a caption: .* 49,410 tokens"
    ):
        load_size(folder)
    write_tokenizer(folder)
    assert load_size(folder).eos_id == 49407


def test_the_features_are_those_of_the_end_token(tmp_path):
    """Through the tokenizer's files; transformers reads out the same row."""
    import tokenizers
    import transformers

    size = dataclasses.replace(SMALL, vocabulary=12, context_length=8, eos_id=9)
    folder = folder_of(size, tmp_path / "clip")
    words = ["!", "a", "cat", "dog", "sat", "on", "it", "?"]
    vocabulary = {word: i for i, word in enumerate(words)}
    vocabulary |= {"<|startoftext|>": 8, "<|endoftext|>": 9}
    own = tokenizers.Tokenizer(tokenizers.models.WordLevel(vocabulary, unk_token="?"))
    own.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    own.add_tokens(["video", "sep"])
    own.save(str(folder / "tokenizer.json"))
    model = load(sized(folder, size, 2))
    ids = model.tokenizer(["a cat sat", "video dog"])
    assert ids.tolist() == [[8, 1, 2, 4, 9, 0, 0, 0], [8, 10, 3, 9, 0, 0, 0, 0]]
    theirs = transformers.CLIPModel.from_pretrained(sized(folder, size, 9))
    with torch.no_grad():
        out = theirs.text_model(torch.tensor(ids).long()).pooler_output
        out = theirs.text_projection(out)
    expected = torch.nn.functional.normalize(out, dim=-1)
    np.testing.assert_allclose(model.encode_texts(ids), expected, atol=1e-5)


@pytest.mark.parametrize("form", ["text", "object", "map"])
def test_tokens_of_other_names(form, tmp_path):
    folder = sized(tmp_path / "a", LONGER, 2)
    write_tokenizer(folder, names=("bos", "eos"))
    with pytest.raises(UserError, match=r"has no token '<\|startoftext\|>'"):
        load_size(folder)
    names = {"bos_token": "<|bos|>", "eos_token": "<|eos|>"}
    if form == "object":
        names = {key: {"content": x, "lstrip": False} for key, x in names.items()}
    file = "special_tokens_map.json" if form == "map" else "tokenizer_config.json"
    (folder / file).write_text(json.dumps(names))
    assert load_size(folder).eos_id == 49407


def test_an_older_tokenizer(tmp_path):
    folder = sized(tmp_path / "a", LONGER, 2)
    vocabulary = {"<|startoftext|>": 49406, "<|endoftext|>": 49407}
    (folder / "vocab.json").write_text(json.dumps(vocabulary))
    (folder / "merges.txt").write_text("#version: 0.2\n")
    (folder / "added_tokens.json").write_text('{"<video>": 49408}')
    assert load_size(folder).eos_id == 49407


@pytest.mark.parametrize(
    ("eos", "ends", "says"),
    [
        (49409, (49406, 49407), "eos_token_id 49409, but its tokenizer .* 49407"),
        # XLM-V's: start 0, padding 1, end 2, as MetaCLIP 2 has them.
        (2, (0, 2), "starts a caption with token 0 and ends it with 2"),
        (2, (49410, 49411), "token 49411, but the vocabulary has 49,410"),
    ],
)
def test_what_does_not_agree_is_refused(eos, ends, says, tmp_path):
    folder = sized(tmp_path / "a", LONGER, eos)
    write_tokenizer(folder, *ends)
    with pytest.raises(UserError, match=says):
        load_size(folder)


def test_without_files_clips_own_tokenizer_is_what_is_used(tmp_path):
    with pytest.raises(UserError, match="eos_token_id 49405, but its tokenizer"):
        load_size(sized(tmp_path / "a", SMALL, 49405))


@pytest.mark.parametrize(
    "content", ['{"model": 3}', "[]", '{"model": {"vocab": {"<|startoftext|>": "x"}}}']
)
def test_a_damaged_tokenizer_is_one_line(content, tmp_path):
    folder = sized(tmp_path / "a", LONGER, 2)
    (folder / "tokenizer.json").write_text(content)
    with pytest.raises(UserError, match=r"tokenizer\.json"):
        load_size(folder)


def test_files_of_openais_kind_with_added_tokens(tmp_path):
    size = dataclasses.replace(LONGER, eos_id=49409)
    folder = folder_of(size, tmp_path / "clip")
    source = tmp_path / "source"
    source.mkdir()
    path = openai_file(folder, source / "pytorch_model.bin")
    with pytest.raises(UserError, match="which token ends a caption"):
        convert(path, tmp_path / "out", "huggingface")
    write_tokenizer(source)
    convert(source, tmp_path / "out", "huggingface")
    assert load_size(tmp_path / "out").eos_id == 49407
    values = json.loads((tmp_path / "out" / "config.json").read_text())
    assert values["text_config"]["eos_token_id"] == 49407


def test_the_demos_backbone_is_still_one():
    assert load_backbone(BACKBONE).size.eos_id == 81
