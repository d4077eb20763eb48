"""Captions to ids: OpenAI's, whatever the string; the folder's own files."""

import dataclasses
import json
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from data_pipelines.console.errors import UserError
from data_pipelines.text.captions import too_long
from vop_jax.model.clip.families import SIZES
from vop_jax.weights import packaged_tokenizer
from vop_jax.weights.backbone import load_backbone
from vop_jax.weights.clip_export import write_hugging_face
from vop_jax.weights.locate import BACKBONE
from vop_jax.weights.packaged_tokenizer import write_packaged_tokenizer
from vop_jax.weights.tensors import tensor_of
from vop_jax.weights.tokenizer import load_tokenizer

# String -> ids without padding, as OpenAI's own tokenizer gives them at 77 tokens.
GOLDEN = json.loads((Path(__file__).parent / "golden_tokens.json").read_text())
SIZE = SIZES["vit_b32"]


@pytest.fixture(scope="module", params=["packaged", "written"])
def folder(request, tmp_path_factory):
    """A folder without files, and one with CLIP's own tokenizer.json."""
    pytest.importorskip("instant_clip_tokenizer")
    folder = tmp_path_factory.mktemp("tokenizer")
    assert request.param == "packaged" or write_packaged_tokenizer(folder)
    return folder


@pytest.fixture(scope="module")
def tokenize(folder):
    return load_tokenizer(folder, SIZE)


def test_the_written_vocabulary_is_clips(folder):
    """Its order, its first merges, and both of the tokens with a character of none."""
    if not (folder / "tokenizer.json").exists():
        return
    model = json.loads((folder / "tokenizer.json").read_text())["model"]
    tokens = list(model["vocab"])
    assert list(model["vocab"].values()) == list(range(49408))
    assert len(model["merges"]) == 48894 == len(set(model["merges"]))
    assert model["merges"][:4] == ["i n", "t h", "a n", "r e"]
    for token, merge in zip(tokens[512:], model["merges"], strict=False):
        assert token == merge.replace(" ", "", 1)
    assert [tokens[i] for i in (0, 256, 320)] == ["!", "!</w>", "a</w>"]


def test_hugging_faces_own_class_reads_what_is_written(folder):
    transformers = pytest.importorskip("transformers")
    if not (folder / "tokenizer.json").exists():
        return
    theirs = transformers.CLIPTokenizerFast.from_pretrained(str(folder))
    ids = load_tokenizer(folder, SIZE)(["two dogs, running"])
    found = theirs("two dogs, running")["input_ids"]
    assert ids[0, : len(found)].tolist() == found


def test_without_the_package_a_folder_needs_its_own(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "instant_clip_tokenizer", None)
    packaged_tokenizer.packaged.cache_clear()
    try:
        # Videos and token ids are embedded all the same.
        tokenize = load_tokenizer(tmp_path, SIZE)
        with pytest.raises(UserError, match=r"has no tokenizer\.json.*convert the"):
            tokenize(["a dog"])
        assert not write_packaged_tokenizer(tmp_path)
        assert not list(tmp_path.iterdir())
    finally:
        packaged_tokenizer.packaged.cache_clear()


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


def test_a_long_text_keeps_its_end(folder):
    short = load_tokenizer(folder, SIZE, 69)
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
    with pytest.raises(UserError, match=r"tokenizer\.json is not JSON"):
        load_tokenizer(tmp_path, other)


def test_a_caption_is_too_long_where_the_tokenizer_would_cut_it(folder):
    captions = [" ".join(["cat"] * n) for n in (1, 30, 74, 75, 76, 200)]
    captions += ["\U0001f431" * 20, "a" * 80, "&amp;" * 40]
    whole = load_tokenizer(folder, SIZE, 1000)(captions)
    lengths = (whole != 0).sum(axis=1)
    assert too_long(captions, 77) == [bool(x) for x in lengths > 77]
    assert too_long(captions, 77).count(True) >= 2


@pytest.mark.parametrize("own", ["", "tokenizer.json", "vocab.json"])
def test_convert_writes_clips_tokenizer_where_the_model_has_none(tmp_path, own):
    pytest.importorskip("instant_clip_tokenizer")
    source, output = tmp_path / "source", tmp_path / "output"
    source.mkdir()
    output.mkdir()
    if own:
        (source / own).write_text("its own")
    clip = {"logit_scale": tensor_of(np.ones((), np.float32))}
    given = SimpleNamespace(clip=clip, size=SIZE, folder=source, added={}, cleaning="")
    write_hugging_face(given, output)
    assert (output / "tokenizer.json").exists() == (own != "vocab.json")
    if own:
        assert (output / own).read_text() == "its own"
    else:
        assert load_tokenizer(output, SIZE)(["a"])[0, :3].tolist() == [
            49406,
            320,
            49407,
        ]
    other = dataclasses.replace(SIZE, vocabulary=1000, eos_id=999)
    given.size, given.folder = other, None
    (bare := tmp_path / "bare").mkdir()
    write_hugging_face(given, bare)
    assert not (bare / "tokenizer.json").exists()


def test_it_says_which_words_the_demo_does_not_know():
    demo = load_tokenizer(BACKBONE, load_backbone(BACKBONE, ["text"]).size)
    assert demo.remark("a red circle moves up") == ""
    assert "none of these words" in demo.remark("zebra!")
    assert demo.remark("a red zebra") == "The model does not know: zebra."
    many = demo.remark("a b c d e f g")
    assert many == "The model does not know: b, c, d, e, f and others."
    assert "its end is ignored" in demo.remark("a red circle " * 20)


def test_it_says_what_clip_has_not_learned(tokenize):
    """Its vocabulary spells any text; other scripts take a token a letter, or more."""
    for text in ("a dog runs", "der Hund läuft", "NASA", "犬", "!!!"):
        assert tokenize.remark(text) == ""
    for text in ("собака бежит", "一只狗在草地上", "σκύλος τρέχει"):
        assert "letter by letter" in tokenize.remark(text)
    assert "75 tokens" in tokenize.remark("a dog " * 60)
    for text in ("", " ", "<|endoftext|>"):
        assert "Nothing of this text" in tokenize.remark(text)
