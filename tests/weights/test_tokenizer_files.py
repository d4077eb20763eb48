"""Tokenizer files as Hugging Face writes them: the same ids, and what is refused."""

import copy
import json

import pytest
from own_time import at_most

from data_pipelines.console.errors import UserError
from vop_jax.model.clip.families import SIZES
from vop_jax.weights.tokenizer import load_tokenizer

SIZE = SIZES["vit_b32"]
TOKENS = ["a</w>", "c", "at</w>", "cat</w>", "a", "t</w>", "b", "b</w>", "c</w>", "t"]
CONTROLS = ["<|startoftext|>", "<|endoftext|>"]
MERGES = [["a", "t</w>"], ["c", "at</w>"]]
EOS = len(TOKENS) + 1
SMALL = SIZE.__class__(
    *(SIZE.vision, SIZE.text, 224, 32), vocabulary=EOS + 1, eos_id=EOS
)
TEXTS = ["a cat", "  CAT\tcat b", "tab", "at bat", "c'at's", "cat<|endoftext|>b"]


@pytest.fixture(scope="module")
def hugging_face(tmp_path_factory):
    """A tokenizer.json as Hugging Face's library writes it, and its own ids."""
    transformers = pytest.importorskip("transformers")
    folder = tmp_path_factory.mktemp("clip")
    vocabulary = {token: i for i, token in enumerate(TOKENS + CONTROLS)}
    (folder / "vocab.json").write_text(json.dumps(vocabulary))
    lines = ["#version: 0.2", *(" ".join(pair) for pair in MERGES)]
    (folder / "merges.txt").write_text("\n".join(lines) + "\n")
    theirs = transformers.CLIPTokenizer.from_pretrained(str(folder))
    theirs.save_pretrained(folder / "saved")
    content = json.loads((folder / "saved" / "tokenizer.json").read_text())
    return folder, content, theirs


def published(content):
    """The form of 2021: no kind of model, merges as text, the shorter pattern."""
    old = copy.deepcopy(content)
    del old["model"]["type"], old["model"]["byte_fallback"]
    del old["model"]["ignore_merges"]
    old["model"]["merges"] = [" ".join(pair) for pair in MERGES]
    split, cut = old["pre_tokenizer"]["pretokenizers"]
    split["pattern"]["Regex"] = split["pattern"]["Regex"].split("endoftext\\|>|")[1]
    del cut["use_regex"]
    old["truncation"] = {"max_length": 77, "strategy": "LongestFirst", "stride": 0}
    old["padding"] = {"strategy": {"Fixed": 77}, "pad_id": 1, "pad_token": "!"}
    return old


def written(folder, content):
    folder.mkdir(exist_ok=True)
    text = content if isinstance(content, str) else json.dumps(content)
    (folder / "tokenizer.json").write_text(text)
    return folder


@pytest.mark.parametrize("form", ["written", "published", "two files"])
def test_ids_are_hugging_faces_in_every_form(hugging_face, tmp_path, form):
    folder, content, theirs = hugging_face
    if form != "two files":
        new = content if form == "written" else published(content)
        folder = written(tmp_path / "x", new)
    ids = load_tokenizer(folder, SMALL, 12)(TEXTS)
    for row, text in zip(ids, TEXTS, strict=True):
        start, *words, end = theirs(text.replace("<|endoftext|>", " "))["input_ids"]
        # Theirs has EOT for what is not in the vocabulary, which would end the text.
        expected = [start, *(x for x in words if x != EOS), end]
        assert row.tolist() == expected + [0] * (12 - len(expected)), text


def test_an_added_token_is_kept_with_its_id(hugging_face, tmp_path):
    new = copy.deepcopy(hugging_face[1])
    token = new["added_tokens"][0] | {"id": EOS + 1, "content": "<toy>"}
    new["added_tokens"].append(token)
    size = SMALL.__class__(
        *(SIZE.vision, SIZE.text, 224, 32), vocabulary=EOS + 2, eos_id=EOS
    )
    ids = load_tokenizer(written(tmp_path, new), size, 6)(["a <toy> b"])
    assert ids.tolist() == [[EOS - 1, 0, EOS + 1, 7, EOS, 0]]


def test_what_is_not_in_the_vocabulary_ends_no_caption(hugging_face):
    ids = load_tokenizer(hugging_face[0], SMALL, 12)(["z cat", "\U0001f431 b"])
    assert (ids == EOS).sum(axis=1).tolist() == [1, 1]
    assert ids[0, :3].tolist() == [EOS - 1, 3, EOS]


def at(*keys, value):
    """Sets a value at a place of a tokenizer.json."""

    def change(content):
        for key in keys[:-1]:
            content = content[key]
        content[keys[-1]] = value

    return change


STEPS = ("normalizer", "normalizers")
CUTS = ("pre_tokenizer", "pretokenizers")
DOUBLING = {"type": "Replace", "pattern": {"String": "a"}, "content": "a" * 10**6}
PANICS = {"Regex": "(?<=a+)b"}
TOKEN = {"id": EOS + 1, "content": "x"}


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (at("model", "vocab", "a", value=10**9), "they are not of one model"),
        (at("model", "vocab", "a", value=-1), "vocab.a is -1; it must be at least 0"),
        (at("model", "vocab", "a", value=EOS), "two of its tokens have the same id"),
        (at("model", "vocab", "new", value=EOS - 1), "they are not of one model"),
        (at("model", "vocab", "a", value="1"), "vocab.a is .1.; it must be a whole"),
        (at("model", "vocab", value=[]), "vocab is \\[\\]; it must be an object"),
        (at("model", "vocab", value={}), "must be 0|is not in the vocabulary"),
        (at("model", "merges", value=[["<|endoftext|", ">"]]), "not in the vocabulary"),
        (at("model", "merges", value=["a t</w> x"]), "merges\\[0\\] is .*two tokens"),
        (at("model", "merges", value=[[1, 2]]), "it must be two tokens"),
        (at("model", "merges", value=[[["a"] * 9] * 2]), "it must be two tokens"),
        (at("model", "merges", value={}), "merges is"),
        (at("model", "dropout", value=0.5), "dropout is 0.5; it must be null"),
        (
            at("model", "type", value="WordPiece"),
            'model.type is "WordPiece"; it must be BPE',
        ),
        (at("model", "type", value=["BPE"] * 999), "model.type is a list of 999"),
        (at("model", "end_of_word_suffix", value=""), "end_of_word_suffix is"),
        (at("model", "continuing_subword_prefix", value="a"), "subword_prefix is"),
        (at("model", "byte_fallback", value=True), "byte_fallback is true"),
        (at("model", "ignore_merges", value=1), "ignore_merges is 1"),
        (at("padding", value={"strategy": {"Fixed": 10**9}}), "Fixed is 1000000000"),
        (at("padding", value={"strategy": "x"}), "padding.strategy"),
        (at("truncation", value={"max_length": 10**12}), "max_length is 1000000000000"),
        (at("truncation", value=[1]), "truncation is"),
        (at(*STEPS, value=[DOUBLING] * 3), '"Replace" is not a step of a known'),
        (at(*STEPS, value=[{"type": "Lowercase"}] * 99), "has 99 steps"),
        (at(*STEPS, value=[]), "has 0 steps"),
        (at(*STEPS, value=None), "normalizers is null"),
        (
            at("normalizer", value={"type": "Prepend", "prepend": "a"}),
            '"Prepend" is not',
        ),
        (at("normalizer", value=3), "normalizer is 3; it must be an object"),
        (at(*CUTS, 0, "pattern", value=PANICS), '"Split" is not a step of a known'),
        (at(*CUTS, 0, "behavior", value="Isolated"), '"Split" is not a step'),
        (at(*CUTS, 1, "add_prefix_space", value=True), '"ByteLevel" is not a step'),
        (at(*CUTS, 1, "add_prefix_space", value=0), '"ByteLevel" is not a step'),
        (at("pre_tokenizer", value=None), "pre_tokenizer is null"),
        (at("pre_tokenizer", value={"type": "Whitespace"}), '"Whitespace" is not a'),
        (at("added_tokens", value=[TOKEN | {"id": 10**9}]), "must be 12"),
        (at("added_tokens", value=[TOKEN]), "12 ids; they are not of one model"),
        (at("added_tokens", value=[TOKEN | {"content": ""}]), "at least 1 characters"),
        (at("added_tokens", value=[TOKEN] * 20_000), "at most 10000 items"),
        (at("added_tokens", value=[TOKEN | {"special": "yes"}]), "true or false"),
        (at("added_tokens", 1, "content", value="cat"), "has the id 11; it must be 12"),
    ],
    ids=lambda x: x[:30] if isinstance(x, str) else "",
)
def test_what_no_clip_tokenizer_has_is_one_line(hugging_face, tmp_path, change, says):
    content = copy.deepcopy(hugging_face[1])
    change(content)
    with at_most(2), pytest.raises(UserError, match=says) as error:
        load_tokenizer(written(tmp_path, content), SMALL, 12)
    assert "\n" not in str(error.value)
    assert len(str(error.value)) < 350


@pytest.mark.parametrize("word", ["cat</w>", "b", "stop", "+++"])
def test_a_word_that_would_end_a_caption_is_refused(hugging_face, tmp_path, word):
    content = copy.deepcopy(hugging_face[1])
    vocabulary = content["model"]["vocab"]
    del vocabulary["<|endoftext|>"]
    if word in vocabulary:
        vocabulary["other"] = vocabulary[word]
    vocabulary[word] = EOS
    content["added_tokens"] = []
    with pytest.raises(UserError, match="starts or ends a caption"):
        load_tokenizer(written(tmp_path, content), SMALL, 12)
    # The same in a tokenizer of whole words, as its unknown word and as a word.
    words = {"<unk>": 0, "x": 1, word: 3, "<|startoftext|>": 2}
    plain = {"pre_tokenizer": {"type": "Whitespace"}}
    plain["model"] = {"type": "WordLevel", "vocab": words, "unk_token": "<unk>"}
    size = SMALL.__class__(*(SIZE.vision, SIZE.text, 224, 32), vocabulary=4, eos_id=3)
    with pytest.raises(UserError, match="starts or ends a caption"):
        load_tokenizer(written(tmp_path, plain), size, 12)
    plain["model"]["vocab"] = {"<unk>": 0, "x": 1, "<|a|>": 3, "<|b|>": 2}
    assert load_tokenizer(written(tmp_path, plain), size, 5)(["x y"]).tolist() == [
        [2, 1, 0, 3, 0]
    ]
    for unknown, says in (("<|a|>", "starts or ends"), ("z", "in the vocabulary")):
        plain["model"]["unk_token"] = unknown
        with pytest.raises(UserError, match=says):
            load_tokenizer(written(tmp_path, plain), size, 12)


@pytest.mark.parametrize(
    ("file", "content", "says"),
    [
        ("tokenizer.json", "[" * 10**5, "nested too deeply"),
        ("tokenizer.json", "{}", "lacks the key"),
        ("tokenizer.json", "[]", "it must be an object"),
        ("tokenizer.json", '{"model": {}, "pre_tokenizer": {}}', "model.type is null"),
        ("vocab.json", '{"a": 1, "a": 2}', "appears twice"),
        ("vocab.json", '{"a": "b"}', "a is .b.; it must be a whole number"),
        ("merges.txt", "a b c", "must be two tokens"),
        ("merges.txt", "a q", "is not in the vocabulary"),
        ("merges.txt", b"\xff\xfe", "is not UTF-8"),
        ("added_tokens.json", '{"x": 99}', "has the id 99; it must be"),
    ],
)
def test_files_of_another_kind_are_one_line(tmp_path, file, content, says):
    vocabulary = {token: i for i, token in enumerate(TOKENS + CONTROLS)}
    (tmp_path / "vocab.json").write_text(json.dumps(vocabulary))
    (tmp_path / "merges.txt").write_text("a t</w>\n")
    load_tokenizer(tmp_path, SMALL, 9)
    raw = content if isinstance(content, bytes) else content.encode()
    (tmp_path / file).write_bytes(raw)
    with pytest.raises(UserError, match=says) as error:
        load_tokenizer(tmp_path, SMALL, 9)
    assert "\n" not in str(error.value)
