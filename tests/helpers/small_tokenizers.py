"""Tokenizers of the kinds that published models have, small and made here."""

import functools
import json
import random
import re
import string

import tokenizers
from tokenizers import normalizers, pre_tokenizers, trainers
from tokenizers.models import BPE, Unigram

SPACE = "\N{LOWER ONE EIGHTH BLOCK}"
_LINES = [
    *("a red circle moves up", "two dogs are running on the grass", "don't stop!"),
    *("the man in the hat opens a door", "she cuts onions, then cooks them"),
    *("ein Hund läuft über die Wiese", "le chat dort sur le canapé", "café au lait"),
    *("собака бежит по траве", "一只狗在草地上跑", "犬が走る", "كلب يركض", "σκύλος"),
    *("3 cats, 12 birds & 1 fish", "snake_case and kebab-case", "e-mail: a@b.c"),
]
WORDS = sorted({word for line in _LINES for word in line.split()})


def pieces(special, count):
    """Unigram pieces and their scores, the special ones first."""
    model = tokenizers.Tokenizer(Unigram())
    model.pre_tokenizer = pre_tokenizers.Metaspace()
    trainer = trainers.UnigramTrainer(
        vocab_size=count - len(special), show_progress=False, unk_token="<unk>"
    )
    model.train_from_iterator(_LINES * 4, trainer)
    content = json.loads(model.to_str())["model"]["vocab"]
    made = [tuple(x) for x in content if x[0] not in special]
    return [(name, 0.0) for name in special] + made[: count - len(special)]


@functools.cache
def merges(special, count):
    """The vocabulary and the merges of byte pairs, the special tokens first."""
    model = tokenizers.Tokenizer(BPE(byte_fallback=True, unk_token="<unk>"))
    model.normalizer = normalizers.Replace(" ", SPACE)
    every = [f"<0x{i:02X}>" for i in range(256)]
    trainer = trainers.BpeTrainer(
        vocab_size=count, show_progress=False, special_tokens=[*special, *every]
    )
    model.train_from_iterator([line.lower() for line in _LINES] * 4, trainer)
    content = json.loads(model.to_str())["model"]
    return content["vocab"], [tuple(x) for x in content["merges"]]


def siglip_file(folder, count):
    """A `tokenizer.json` as of SigLIP on the hub: SentencePiece's unigram model."""
    special = ("<pad>", "</s>", "<unk>")
    made = tokenizers.Tokenizer(Unigram(pieces(special, count), unk_id=2))
    punctuation = tokenizers.Regex(f"[{re.escape(string.punctuation)}]")
    made.normalizer = normalizers.Sequence(
        [
            normalizers.Lowercase(),
            normalizers.Replace(punctuation, ""),
            normalizers.Replace(tokenizers.Regex(r"\s+"), " "),
            normalizers.Strip(),
        ]
    )
    made.pre_tokenizer = pre_tokenizers.Metaspace()
    made.add_special_tokens(list(special))
    made.save(str(folder / "tokenizer.json"))


def siglip2(count):
    """Transformers' tokenizer of SigLIP 2."""
    import transformers

    special = ("<pad>", "<eos>", "<bos>", "<unk>", "<mask>")
    vocabulary, pairs = merges(special, count)
    return transformers.Siglip2Tokenizer(
        vocab=dict(vocabulary), merges=list(pairs), add_bos_token=False
    )


def xlm_v(count):
    """Transformers' tokenizer of MetaCLIP 2."""
    import transformers

    special = ("<s>", "<pad>", "</s>", "<unk>")
    return transformers.XLMRobertaTokenizer(vocab=pieces(special, count - 1))


def texts(count=1000, seed=0):
    """Strings of words, punctuation, odd spaces and letters of many scripts."""
    draw = random.Random(seed)
    ranges = [(32, 127), (160, 592), (0x370, 0x500), (0x4E00, 0x4E80), (0x600, 0x650)]
    ranges += [(0x1F300, 0x1F400), (0xFF01, 0xFF60), (0x2000, 0x2070), (0x300, 0x370)]

    def word():
        kind = draw.random()
        if kind < 0.6:
            found = draw.choice(WORDS)
        elif kind < 0.8:
            found = "".join(draw.choices(string.printable, k=draw.randint(1, 6)))
        else:
            found = "".join(
                chr(draw.randrange(*draw.choice(ranges)))
                for _ in range(draw.randint(1, 5))
            )
        return draw.choice([str, str, str.upper, str.title])(found)

    joints = [" "] * 8 + ["  ", "\t", "\n", "", ", ", "_", "\u00a0"]
    made = []
    for _ in range(count):
        text = ""
        for _ in range(draw.randint(0, 14)):
            text += word() + draw.choice(joints)
        made.append(text)
    return made


def clip_file(folder, count):
    """A tokenizer of whole words with CLIP's control tokens, the last of `count`."""
    words = ["<unk>", *WORDS[: count - 3], "<|startoftext|>", "<|endoftext|>"]
    made = tokenizers.Tokenizer(
        tokenizers.models.WordLevel(
            {word: i for i, word in enumerate(words)}, unk_token="<unk>"
        )
    )
    made.pre_tokenizer = pre_tokenizers.Whitespace()
    made.save(str(folder / "tokenizer.json"))


def unigram_file(folder, special, count, unknown):
    """The least that a folder of a SentencePiece family needs."""
    named = [(name, 0.0) for name in special]
    letters = [(x, -float(i)) for i, x in enumerate(SPACE + string.ascii_letters)]
    found = (named + letters)[:count]
    made = tokenizers.Tokenizer(Unigram(found, unk_id=unknown))
    made.pre_tokenizer = pre_tokenizers.Metaspace()
    made.save(str(folder / "tokenizer.json"))


# Family -> what writes a tokenizer of at most so many tokens into a folder.
WRITERS = {
    "siglip": lambda folder, count: unigram_file(
        folder, ("<pad>", "</s>", "<unk>"), count, 2
    ),
    "metaclip_2": lambda folder, count: unigram_file(
        folder, ("<s>", "<pad>", "</s>", "<unk>"), count, 3
    ),
    "pe_core": clip_file,
    "eva02_clip": clip_file,
    "clip": clip_file,
}
