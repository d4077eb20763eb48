"""Names of models on the hub: what is one, and what leads elsewhere."""

from pathlib import Path

import pytest

from data_pipelines.console.errors import UserError
from vop_jax.hub.names import (
    HubName,
    folder_of,
    origin_of,
    parse,
    repository_of,
    with_parts,
)

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("me/x", HubName("me/x")),
        ("me/x@v1.0", HubName("me/x", "", "v1.0")),
        ("me/x/sub", HubName("me/x", "sub")),
        ("me/x/sub/deeper@refs/pr/1", HubName("me/x", "sub/deeper", "refs/pr/1")),
        ("openai/clip-vit-base-patch32", HubName("openai/clip-vit-base-patch32")),
    ],
)
def test_a_name_is_taken_apart(text, found):
    assert parse(text) == found
    assert str(found) == text


@pytest.mark.parametrize(
    "text",
    [
        *(
            "",
            "x",
            "me",
            "/me/x",
            "../x",
            "me/..",
            "me/../x",
            "me/x/..",
            "me/x/../../y",
        ),
        *("me/x/", "me//x", "./me/x", "~/x", "me/x@", "me/x@../y", "me/x@a b", "a b/x"),
        *("me/x--y", "https://host/me/x", "me/x/.git", "me\\x/y", "mé/x", "me/x\n"),
    ],
)
def test_what_is_no_name(text):
    assert parse(text) is None


def test_a_mistyped_path_is_asked_for_nowhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert parse("runs/demo/vop") == HubName("runs/demo", "vop")
    Path("runs").mkdir()
    assert parse("runs/demo/vop") is None


def test_parts_are_given_once():
    assert with_parts(HubName("me/x"), "sub", "v1") == HubName("me/x", "sub", "v1")
    assert with_parts(HubName("me/x", "sub"), "sub") == HubName("me/x", "sub")
    with pytest.raises(UserError, match="subfolder is a, and the model's name says b"):
        with_parts(HubName("me/x", "b"), "a")
    for wrong in ("../y", "/y", "", 3):
        with pytest.raises(UserError, match="subfolder is "):
            with_parts(HubName("me/x"), wrong)
        with pytest.raises(UserError, match="revision is "):
            with_parts(HubName("me/x"), None, wrong)


def test_names_to_write_to():
    assert repository_of("me/x") == "me/x"
    for wrong in ("x", "me/x/y", "me/..", None):
        with pytest.raises(UserError, match="is not the name of a repository"):
            repository_of(wrong)
    assert folder_of("") == ""
    with pytest.raises(UserError, match=r"subfolder is '\.\./x'"):
        folder_of("../x")


@pytest.mark.parametrize(
    ("path", "found"),
    [
        (f"/c/models--me--x/snapshots/{COMMIT}", HubName("me/x", "", COMMIT)),
        (f"/c/models--me--x/snapshots/{COMMIT}/a", HubName("me/x", "a", COMMIT)),
        ("/c/models--me--x/snapshots/main", None),
        (f"/c/models--me--x/blobs/{COMMIT}", None),
        ("/c/models--me--x", None),
        (f"/c/me/snapshots/{COMMIT}", None),
        (f"/c/models--..--x/snapshots/{COMMIT}", None),
    ],
)
def test_a_folder_of_the_cache_says_what_it_holds(path, found):
    assert origin_of(Path(path)) == found
