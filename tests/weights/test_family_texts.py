"""Texts of other families become the ids that transformers gives them."""

import dataclasses
import json
import re
import string

import numpy as np
import pytest
import small_tokenizers
from small_families import METACLIP_2, SIGLIP

from data_pipelines.console.errors import UserError
from vop_jax.model.clip.sizes import ClipSize
from vop_jax.weights.config_file import load_size, save_size
from vop_jax.weights.special_tokens import CONFIG
from vop_jax.weights.tokenizer import load_tokenizer

transformers = pytest.importorskip("transformers")
TEXTS = small_tokenizers.texts()
LENGTH = 24


def sized(size: ClipSize, vocabulary, **fields):
    return dataclasses.replace(
        size, vocabulary=vocabulary, context_length=LENGTH, **fields
    )


def written(theirs, folder, size):
    theirs.save_pretrained(folder)
    save_size(folder, size)
    return load_size(folder)


def test_siglip_2_is_lower_case_alone(tmp_path):
    theirs = small_tokenizers.siglip2(700)
    size = written(theirs, tmp_path, sized(SIGLIP, 700))
    assert (size.family, size.eos_id) == ("siglip2", 1)
    ids = load_tokenizer(tmp_path, size)(TEXTS)
    assert ids.shape == (1000, LENGTH)
    cut = 0
    for row, text in zip(ids, TEXTS, strict=True):
        words = theirs(text, add_special_tokens=False)["input_ids"]
        cut += len(words) >= LENGTH
        expected = [*words[: LENGTH - 1], 1]
        assert row.tolist() == expected + [0] * (LENGTH - len(expected)), repr(text)
    assert 100 < cut < 900


def test_metaclip_2_is_taken_as_it_is(tmp_path):
    theirs = small_tokenizers.xlm_v(400)
    size = written(theirs, tmp_path, sized(METACLIP_2, 400, eos_id=2))
    assert (size.family, size.eos_id) == ("metaclip_2", 2)
    ids = load_tokenizer(tmp_path, size)(TEXTS)
    for row, text in zip(ids, TEXTS, strict=True):
        wanted = theirs(text, max_length=LENGTH, truncation=True)["input_ids"]
        assert (wanted[0], wanted[-1]) == (0, 2)
        # Nothing behind the end token is read.
        assert row.tolist() == wanted + [0] * (LENGTH - len(wanted)), repr(text)


def canonical(text):
    """As transformers' SigLIP has it."""
    text = text.lower().translate(str.maketrans("", "", string.punctuation))
    return re.sub(r"\s+", " ", text).strip()


def test_siglip_is_without_punctuation(tmp_path):
    small_tokenizers.siglip_file(tmp_path, 300)
    save_size(tmp_path, sized(SIGLIP, 300))
    size = load_size(tmp_path)
    assert (size.family, size.eos_id) == ("siglip", 1)
    theirs = transformers.PreTrainedTokenizerFast(
        tokenizer_file=str(tmp_path / "tokenizer.json")
    )
    ids = load_tokenizer(tmp_path, size)(TEXTS)
    for row, text in zip(ids, TEXTS, strict=True):
        words = theirs(canonical(text), add_special_tokens=False)["input_ids"]
        expected = [*words[: LENGTH - 1], 1]
        # Filled with the end token, which the last position then reads.
        assert row.tolist() == expected + [1] * (LENGTH - len(expected)), repr(text)
    (one, other) = load_tokenizer(tmp_path, size)(
        ["A red_circle, up!", "a redcircle up"]
    )
    np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize(
    ("settings", "texts"),
    [
        ({"clean": "canonicalize"}, ("A red_circle, up!", "a red circle up")),
        ({"clean": "canonicalize"}, ("red &amp; circle", "red circle")),
        (
            {"clean": "whitespace", "do_lower_case": False},
            ("red \n circle", "red circle"),
        ),
        ({}, ("RED circle!", "red circle")),
    ],
)
def test_a_folder_says_how_its_texts_are_cleaned(tmp_path, settings, texts):
    small_tokenizers.siglip_file(tmp_path, 300)
    save_size(tmp_path, sized(SIGLIP, 300))
    (tmp_path / CONFIG).write_text(json.dumps(settings))
    one, other = load_tokenizer(tmp_path, load_size(tmp_path))(list(texts))
    np.testing.assert_array_equal(one, other)


def test_an_unknown_cleaning_is_refused(tmp_path):
    small_tokenizers.siglip_file(tmp_path, 300)
    save_size(tmp_path, sized(SIGLIP, 300))
    (tmp_path / CONFIG).write_text('{"clean": "scrub"}')
    with pytest.raises(UserError, match=r"tokenizer_config\.json 'scrub' is not one"):
        load_tokenizer(tmp_path, load_size(tmp_path))


def test_padding_on_the_left(tmp_path):
    theirs = small_tokenizers.siglip2(700)
    size = written(theirs, tmp_path, sized(SIGLIP, 700))
    values = json.loads((tmp_path / CONFIG).read_text())
    rows = {}
    for side in ("left", "right"):
        (tmp_path / CONFIG).write_text(json.dumps(values | {"padding_side": side}))
        (rows[side],) = load_tokenizer(tmp_path, size)(["a dog"]).tolist()
    words = [x for x in rows["right"] if x]
    assert rows["left"] == [0] * (LENGTH - len(words)) + words
    assert rows["right"] == words + [0] * (LENGTH - len(words))


@pytest.mark.parametrize("family", ["siglip", "siglip2", "metaclip_2"])
def test_a_control_token_in_a_text_ends_nothing(tmp_path, family):
    if family == "siglip":
        small_tokenizers.siglip_file(tmp_path, 300)
        save_size(tmp_path, sized(SIGLIP, 300))
    else:
        made = {
            "siglip2": small_tokenizers.siglip2,
            "metaclip_2": small_tokenizers.xlm_v,
        }
        base = SIGLIP if family == "siglip2" else METACLIP_2
        written(
            made[family](700 if family == "siglip2" else 400),
            tmp_path,
            sized(base, 700),
        )
    size = load_size(tmp_path)
    tokenize = load_tokenizer(tmp_path, size)
    plain = tokenize(["a dog"])[0].tolist()
    for text in ("a dog</s> a cat", "<s>a dog", "a<eos> dog", "a dog <pad> a", "</s>"):
        row = tokenize([text])[0].tolist()
        first = row.index(size.eos_id)
        # Behind the first end token is what fills the context, and nothing else.
        filling = plain[-1]
        assert set(row[first + 1 :]) <= {filling}
        control = {"siglip": {0, 1}, "siglip2": {0, 1, 2}, "metaclip_2": {0, 1, 2}}
        start = 1 if family == "metaclip_2" else 0
        assert not set(row[start:first]) & control[family], text


@pytest.mark.parametrize("size", [SIGLIP, METACLIP_2], ids=["siglip", "metaclip_2"])
def test_a_missing_tokenizer_is_one_line(tmp_path, size):
    save_size(tmp_path, size)
    with pytest.raises(UserError, match=r"has no tokenizer\.json") as error:
        load_tokenizer(tmp_path, load_size(tmp_path))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"unk_id": 10**6}, "unk_id is 1000000; the vocabulary has"),
        ({"unk_id": 1}, "gives .</s>., which starts or ends a caption"),
        ({"vocab": [["a", "b"]]}, r"model.vocab\[0\] is .*; it must be a piece and"),
        ({"vocab": [["a"]]}, r"model.vocab"),
        ({"vocab": 3}, r"it has no vocabulary"),
    ],
)
def test_damaged_pieces_are_one_line(tmp_path, change, says):
    small_tokenizers.siglip_file(tmp_path, 300)
    save_size(tmp_path, sized(SIGLIP, 300))
    size = load_size(tmp_path)
    path = tmp_path / "tokenizer.json"
    content = json.loads(path.read_text())
    content["model"] |= change
    path.write_text(json.dumps(content))
    with pytest.raises(UserError, match=says + "|has no token") as error:
        load_tokenizer(tmp_path, size)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "step",
    [
        {"type": "Precompiled", "precompiled_charsmap": "AAAA"},
        {"type": "Precompiled", "precompiled_charsmap": "!"},
        {"type": "Precompiled"},
        {"type": "Replace", "pattern": {"Regex": "(a+)+b"}, "content": ""},
    ],
)
def test_unknown_steps_are_refused(tmp_path, step):
    small_tokenizers.siglip_file(tmp_path, 300)
    save_size(tmp_path, sized(SIGLIP, 300))
    size = load_size(tmp_path)
    path = tmp_path / "tokenizer.json"
    content = json.loads(path.read_text())
    content["normalizer"] = step
    path.write_text(json.dumps(content))
    with pytest.raises(UserError, match=r"not a table of characters|is not a step of"):
        load_tokenizer(tmp_path, size)
