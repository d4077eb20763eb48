"""Captions to ids: OpenAI's, whatever the string; the folder's own files."""

import copy
import dataclasses
import json
import sys
import time
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
    began = time.process_time()
    with pytest.raises(UserError, match=says) as error:
        load_tokenizer(written(tmp_path, content), SMALL, 12)
    assert time.process_time() - began < 2
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
