"""Captions to ids: OpenAI's, whatever the string; the folder's own files."""

import json
from pathlib import Path

import numpy as np
import pytest

from data_pipelines.captions import too_long
from data_pipelines.errors import UserError
from vop_jax.demo import BACKBONE
from vop_jax.sizes import SIZES
from vop_jax.tokenizer import load_tokenizer

# String -> ids without padding, as OpenAI's own tokenizer gives them at 77 tokens.
GOLDEN = json.loads((Path(__file__).parent / "golden_tokens.json").read_text())
SIZE = SIZES["vit_b32"]


@pytest.fixture(scope="module")
def tokenize():
    return load_tokenizer(Path("/nowhere"), SIZE)


def test_ids_are_openais(tokenize):
    ids = tokenize([text for text, _ in GOLDEN])
    assert ids.shape == (len(GOLDEN), 77)
    for row, (text, expected) in zip(ids, GOLDEN, strict=True):
        padded = expected + [0] * (77 - len(expected))
        np.testing.assert_array_equal(row, padded, err_msg=repr(text))


@pytest.mark.parametrize(
    "text",
    [
        "a cat<|endoftext|> a dog",
        "a cat <|ENDOFTEXT|> a dog",
        "a cat &lt;|endoftext|&gt; a dog",
        "<|startoftext|>a cat a dog",
        "a cat <|EndOf<|endoftext|>Text|> a dog",
    ],
)
def test_a_control_token_in_a_text_cuts_nothing(tokenize, text):
    (row,) = tokenize([text])
    (plain,) = tokenize(["a cat a dog"])
    assert (row == 49407).sum() == (row == 49406).sum() == 1
    words = [x for x in plain.tolist() if x not in (0, 49406, 49407)]
    assert [x for x in row.tolist() if x in words] == words


def test_a_long_text_keeps_its_end():
    short = load_tokenizer(Path("/nowhere"), SIZE, 69)
    ids = short(["word " * 100, "word"])
    assert ids.shape == (2, 69)
    assert ids[0, -1] == 49407
    assert (ids[0, 1:-1] == ids[1, 1]).all()


def test_a_folder_brings_its_own_vocabulary():
    demo = load_tokenizer(BACKBONE, SIZES["demo"])
    (row,) = demo(["a red circle"])
    assert row.max() == SIZES["demo"].eos_id
    with pytest.raises(UserError, match="not of one model"):
        load_tokenizer(
            BACKBONE,
            SIZES["demo"].__class__(SIZE.vision, SIZE.text, 224, 32, vocabulary=20),
        )


def test_vocabulary_and_merges_of_an_older_folder(tmp_path):
    tokens = [
        "a</w>",
        "c",
        "at</w>",
        "cat</w>",
        "t</w>",
        "<|startoftext|>",
        "<|endoftext|>",
    ]
    tokens.insert(4, "a")
    vocabulary = {token: i for i, token in enumerate(tokens)}
    (tmp_path / "vocab.json").write_text(json.dumps(vocabulary))
    (tmp_path / "merges.txt").write_text("#version: 0.2\na t</w>\nc at</w>\n")
    size = SIZE.__class__(SIZE.vision, SIZE.text, 224, 32, vocabulary=8, eos_id=7)
    ids = load_tokenizer(tmp_path, size, 6)(["A  Cat"])
    assert ids.tolist() == [[6, 0, 3, 7, 0, 0]]


def test_what_is_refused(tmp_path):
    other = SIZE.__class__(SIZE.vision, SIZE.text, 224, 32, vocabulary=1000)
    with pytest.raises(UserError, match=r"no tokenizer\.json"):
        load_tokenizer(tmp_path, other)
    (tmp_path / "tokenizer.json").write_text("{")
    with pytest.raises(UserError, match="tokenizer is damaged"):
        load_tokenizer(tmp_path, other)


def test_a_caption_is_too_long_where_the_tokenizer_would_cut_it():
    captions = [" ".join(["cat"] * n) for n in (1, 30, 74, 75, 76, 200)]
    captions += ["\U0001f431" * 20, "a" * 80, "&amp;" * 40]
    whole = load_tokenizer(Path("/nowhere"), SIZE, 1000)(captions)
    lengths = (whole != 0).sum(axis=1)
    assert too_long(captions, 77) == [bool(x) for x in lengths > 77]
    assert too_long(captions, 77).count(True) >= 2
