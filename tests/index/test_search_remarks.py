"""What a search says of its queries and filters, and what it refuses at once."""

import json

from searched_films import made  # noqa: F401


def test_what_the_model_does_not_understand_is_said(call, loaded, made):
    query = ("query", f"--index={made[1]}", "--json")
    status, out, err = call(*query, "red zebra", "red", "red " * 20)
    assert status == 0
    assert len(json.loads(out)["answers"]) == 3
    unknown, long = err.splitlines()
    assert unknown == "warning: 'red zebra': The model does not know: zebra."
    assert json.loads(out)["remark"] in err.replace("\nwarning:", "")
    assert "longer than the 14 tokens that the model reads" in long
    assert call(*query, "red")[2] == ""
    status, out, err = call(*query, "zxqv")
    assert err == (
        "warning: The model knows none of these words, so the order means nothing.\n"
    )
    assert f"warning: {json.loads(out)['remark']}\n" == err
    assert all(x["weak"] for x in json.loads(out)["answers"][0]["hits"])
    _, out, _ = call(*query[:-1], "zxqv", "red", "--top=1")
    assert out.count("(weak match)") == out.count("nothing stands out") == 1


def test_of_filters_that_nothing_can_pass(call, loaded, made):
    query = ("query", f"--index={made[1]}", "red")
    for flags, says in (
        (("--since=2026-11-28", "--until=2026-11-27"), "since is more than until"),
        (("--min_seconds=2", "--max_seconds=1"), "min_seconds is more than max_se"),
    ):
        status, out, err = call(*query, *flags)
        assert (status, out) == (2, "")
        assert says in err
    assert loaded == []
    assert call(*query, "--since=2026-11-27", "--until=2026-11-27")[0] == 0


def test_what_cannot_be_indexed_is_told_before_the_model_is_loaded(
    call, loaded, made, tmp_path
):
    folder, index = made
    (tmp_path / "empty").mkdir()
    flags = ("index", "--checkpoint=hub")
    old, new = f"--output={index}", f"--output={tmp_path / 'new'}"
    for more in (
        (old, f"--videos={folder}", "--moment_seconds=3"),
        (old, f"--videos={folder}", "--cut=shots"),
        (old, f"--videos={tmp_path / 'empty'}"),
        (new, f"--videos={tmp_path / 'empty'}"),
    ):
        status, _, err = call(*flags, *more)
        assert (status, err.count("\n")) == (2, 1)
    assert "holds no video; use another --videos" in err
    assert loaded == []
    assert not (tmp_path / "new").exists()


def test_an_empty_query_loads_nothing(call, loaded, made):
    status, _, err = call("query", f"--index={made[1]}", "red", " ")
    assert status == 2
    assert "a query is empty; describe the video to find" in err
    assert loaded == []


def test_what_is_searched_is_what_passes_the_filters(call, loaded, made):
    _, index = made
    query = ("query", f"--index={index}", "red")
    status, out, _ = call(*query, "--folder=a")
    assert status == 0
    assert "searched 1 moment of 1 video in" in out
    status, out, _ = call(*query, "--folder=none")
    assert status == 0
    assert "no video matches these filters" in out
    assert "rank" not in out
    assert "searched 0 moments of 0 videos" in out
    assert "searched 4 moments of 4 videos" in call(*query)[1]
