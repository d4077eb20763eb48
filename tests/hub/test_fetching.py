"""Fetching from the hub: what is asked for, what is said, what is refused."""

import re

import pytest
from fake_hub import hub  # noqa: F401
from huggingface_hub import constants

from data_pipelines.console.errors import UserError
from vop_jax.hub.fetching import NotFetchedError, fetch
from vop_jax.hub.names import HubName
from vop_jax.hub.pushing import open_repository, push
from vop_jax.weights import preprocessing
from vop_jax.weights.file_names import DESCRIPTIONS, TOKENIZER_FILES
from vop_jax.weights.locate import fetch_folder

# Of how the hub's client uploads a large file.
pytestmark = pytest.mark.filterwarnings("ignore:Use 'content:DeprecationWarning")
X = HubName("me/x")
FILES = {
    "config.json": b"{}",
    "model.safetensors": b"w" * 5_000,
    "other.safetensors": b"o" * 9_000,
    "a/config.json": b"{}",
    "a/model.safetensors": b"a" * 7_000,
}


def choose(names):
    """The model's two files, where the weights are there."""
    found = [x for x in ("config.json", "model.safetensors") if x in names]
    return found if "model.safetensors" in names else []


@pytest.fixture
def stated(hub):
    hub.commit("me/x", FILES)
    return hub


def test_what_is_chosen_is_fetched_and_said_once(stated, capsys):
    folder = fetch(X, choose)
    assert {x.name for x in folder.iterdir()} == {"config.json", "model.safetensors"}
    assert stated.sent == {"me/x/config.json": 2, "me/x/model.safetensors": 5_000}
    commit = stated.at("me/x", "main")[0]
    out, said = capsys.readouterr()
    assert out == ""
    assert said == (
        f"fetching from me/x@{commit[:12]}: config.json (2 bytes), "
        "model.safetensors (5,000 bytes)\n"
    )
    # A second time nothing moves, and nothing is said.
    assert fetch(X, choose) == folder
    assert sum(stated.sent.values()) == 5_002
    assert capsys.readouterr() == ("", "")


def test_a_folder_of_a_repository(stated):
    folder = fetch(X._replace(folder="a"), choose)
    assert (folder / "model.safetensors").read_bytes() == b"a" * 7_000
    assert set(stated.sent) == {"me/x/a/config.json", "me/x/a/model.safetensors"}


def test_an_older_commit(stated):
    first = stated.at("me/x", "main")[0]
    stated.commit("me/x", {"model.safetensors": b"new"})
    assert (fetch(X, choose) / "model.safetensors").read_bytes() == b"new"
    older = fetch(X._replace(revision=first), choose)
    assert (older / "model.safetensors").read_bytes() == b"w" * 5_000
    assert older.name == first


def test_without_a_network_the_cache_answers(stated, monkeypatch, capsys):
    folder = fetch(X, choose)
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:1")
    capsys.readouterr()
    assert fetch(X, choose) == folder
    assert fetch(X._replace(revision=folder.name), choose) == folder
    with pytest.raises(NotFetchedError, match=r"me/y cannot be fetched .*\("):
        fetch(HubName("me/y"), choose)
    with pytest.raises(NotFetchedError, match=r"me/x@v1 cannot be fetched"):
        fetch(X._replace(revision="v1"), choose)
    # Interrupted before the weights came.
    (folder / "model.safetensors").unlink()
    with pytest.raises(NotFetchedError, match="the cache holds only a part of it"):
        fetch(X, choose)
    assert "\n" not in capsys.readouterr().err


def test_the_environment_can_forbid_the_network(stated, monkeypatch):
    folder = fetch(X, choose)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    asked = len(stated.asked)
    assert fetch(X, choose) == folder
    with pytest.raises(NotFetchedError, match=r"me/y cannot be fetched .*offline"):
        fetch(HubName("me/y"), choose)
    assert len(stated.asked) == asked


@pytest.mark.parametrize(
    ("name", "says"),
    [
        (HubName("me/y"), "me/y cannot be fetched from the Hugging Face hub (no such"),
        (X._replace(revision="v9"), "me/x on the Hugging Face hub has no revision v9"),
        (X._replace(folder="b"), "holds no model in this folder, but in: its top, a;"),
    ],
)
def test_what_is_not_there_is_one_line(stated, name, says):
    with pytest.raises(UserError) as error:
        fetch(name, choose)
    assert says in str(error.value)
    assert "\n" not in str(error.value)
    assert not stated.sent


def test_a_repository_without_weights(hub):
    hub.commit("me/x", {"README.md": b"hello"})
    with pytest.raises(UserError, match="holds no weights of a known name"):
        fetch(X, choose)


@pytest.mark.parametrize(
    ("file", "size", "most"),
    [("config.json", 2**28 + 1, "256"), ("model.safetensors", 2**36 + 1, "65,536")],
)
def test_sizes_are_bounded_before_anything_is_fetched(stated, file, size, most):
    stated.stated[file] = size
    with pytest.raises(UserError, match=rf"{file} has .* more than {most} MiB"):
        fetch(X, choose)
    assert not stated.sent
    stated.stated[file] = size - 1
    fetch(X, choose)


def test_a_branch_that_moves_meanwhile(stated, monkeypatch):
    """What was looked at is not what would be loaded."""
    asked, before = [], stated.at

    def at(repository, revision):
        found = before(repository, revision)
        if revision == "main":
            asked.append(found)
            stated.commit("me/x", {"model.safetensors": b"%d" % len(asked)})
        return found

    monkeypatch.setattr(stated, "at", at)
    with pytest.raises(UserError, match="has changed while it was fetched"):
        fetch(X, choose)


@pytest.mark.parametrize("odd", ["*config.json", "[a]config.json", "?.json", "[!b]"])
def test_names_are_not_patterns(hub, odd, capsys):
    """Others that a pattern fits were neither announced nor held against a size."""
    others = {"deep/x_config.json": b"x" * 9_000, "aconfig.json": b"y", "a": b"z"}
    hub.commit("me/x", {odd: b"{}", **others})
    folder = fetch(X, lambda names: [odd])
    assert hub.sent == {f"me/x/{odd}": 2}
    assert [x.name for x in folder.iterdir()] == [odd]
    assert f": {odd} (2 bytes)\n" in capsys.readouterr().err


def test_a_model_is_its_files_of_known_names(hub):
    # What is equal is sent once.
    known = {x: x.encode() for x in (*DESCRIPTIONS, *TOKENIZER_FILES)}
    weights = {
        "model.safetensors.index.json": b"{}",
        "model-00001-of-00002.safetensors": b"1",
        "model-00002-of-00002.safetensors": b"2",
        "tuned.safetensors": b"t",
    }
    others = ("*config.json", "x_config.json", "adapter_config.json", "a/config.json")
    more = {
        "model-*-of-00002.safetensors": b"3",
        "model-\u0661-of-\u0662.safetensors": b"4",
    }
    hub.commit("me/x", known | weights | more | dict.fromkeys(others, b"{}"))
    folder = fetch_folder(X)
    assert {x.name for x in folder.iterdir()} == {*known, *weights}
    assert {x.removeprefix("me/x/") for x in hub.sent} == {*known, *weights}
    assert {*preprocessing.HUGGING_FACE} < {*DESCRIPTIONS}


def test_pushing_is_one_commit(hub, tmp_path, capsys):
    (tmp_path / "a").mkdir()
    (tmp_path / "README.md").write_text("hello")
    (tmp_path / "a/tuned.safetensors").write_bytes(b"t" * 4_000)
    assert not open_repository("me/new", private=None).bytes
    commit = push(tmp_path, "me/new", "Add a")
    assert hub.at("me/new", "main") == (
        commit,
        {"README.md": b"hello", "a/tuned.safetensors": b"t" * 4_000},
    )
    assert hub.received == 4_000
    said = capsys.readouterr().err
    assert said == (
        "pushing to me/new: README.md (5 bytes), a/tuned.safetensors (4,000 bytes)\n"
    )
    # What is there already does not move again.
    (tmp_path / "README.md").write_text("hello again")
    push(tmp_path, "me/new", "Change")
    assert hub.received == 4_000
    assert len(hub.repositories["me/new"]) == 2
    assert open_repository("me/new", private=None).bytes["README.md"] == 11


@pytest.mark.parametrize("status", [401, 403])
def test_what_may_not_be_written_is_one_line(hub, status):
    hub.refuses = status
    with pytest.raises(UserError, match=r"me/new .* cannot be written .*hf auth login"):
        open_repository("me/new", private=None)
    assert not hub.repositories


def test_pushing_without_a_network(hub, tmp_path, monkeypatch):
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:1")
    with pytest.raises(UserError, match=r"cannot be written .*refused") as error:
        open_repository("me/new", private=None)
    assert not re.search(r"\n", str(error.value))
