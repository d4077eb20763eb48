"""Valid JSON with changes, some of which Python's own writer cannot say."""

import copy
import json

from hypothesis import strategies as st

# JSON as text, so that what Python's own writer cannot say is among it.
SCALARS = st.sampled_from(
    [
        *("null", "true", "false", "0", "-1", "1", "2", "1.0", "0.5", "-0.0", "1e999"),
        *("NaN", "Infinity", "-Infinity", "1000000000", "9223372036854775808"),
        *("9" * 5000, '""', '"false"', '"\\ud800"', '"\\u0000"', '"\\n"', '"/"', '"."'),
        *('"../../x"', '"gelu"', '"<|endoftext|>"', json.dumps("x" * 5000), "[", "}"),
        *("[]", "{}", "[" * 70 + "]" * 70, "[" * 5000, '{"a":1,"a":2}', "[[[1]]]"),
        json.dumps([0] * 1000),
        json.dumps({str(i): i for i in range(1000)}),
    ]
)
ANY = st.one_of(
    SCALARS,
    st.integers().map(str),
    st.floats().map(json.dumps),
    st.text(max_size=20).map(json.dumps),
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(max_size=5),
        lambda inner: (
            st.lists(inner, max_size=4)
            | st.dictionaries(st.text(max_size=5), inner, max_size=4)
        ),
        max_leaves=8,
    ).map(json.dumps),
)
_MARK = "\ue000"


def places(value, prefix=()):
    """Where in a JSON value something can be changed."""
    yield prefix
    if isinstance(value, dict):
        inner = list(value.items())
    elif isinstance(value, list):
        inner = list(enumerate(value))
    else:
        return
    # A vocabulary is as good in its first entries.
    for key, below in inner[:12]:
        yield from places(below, (*prefix, key))


@st.composite
def changed(draw, valid):
    """The text of a valid value with a few of its places changed."""
    whole = {"": copy.deepcopy(valid)}
    texts = []
    for _ in range(draw(st.integers(1, 3))):
        place = ("", *draw(st.sampled_from(list(places(whole[""])))))
        target = whole
        for key in place[:-1]:
            target = target[key]
        action = draw(st.sampled_from(["replace", "replace", "remove", "rename"]))
        if action == "replace" or len(place) == 1 or isinstance(target, list):
            target[place[-1]] = f"{_MARK}{len(texts)}{_MARK}"
            texts.append(draw(ANY))
        elif action == "remove":
            del target[place[-1]]
        else:
            target[draw(st.text(max_size=5))] = target.pop(place[-1])
    text = json.dumps(whole[""], ensure_ascii=False)
    for i, new in enumerate(texts):
        text = text.replace(f'"{_MARK}{i}{_MARK}"', new)
    raw = text.encode("utf-8", "surrogatepass")
    if draw(st.integers(0, 9)) == 0 and raw:
        at = draw(st.integers(0, len(raw) - 1))
        raw = draw(
            st.sampled_from(
                [raw[:at], raw[:at] + b"\xff" + raw[at + 1 :], raw[:at] * 2 + raw[at:]]
            )
        )
    return raw
