"""Outputs, folders and filters of the search command that cannot be meant."""

import pytest


@pytest.fixture
def made(folder, capsys):
    """A folder of videos with its index."""
    folder.update()
    capsys.readouterr()
    return folder.videos, folder.index


def test_an_output_that_cannot_be_is_found_out_before_the_work(
    call, loaded, made, tmp_path
):
    folder, index = made
    new = tmp_path / "new"
    (tmp_path / "file").touch()
    flags = ("index", f"--videos={folder}", "--checkpoint=here", f"--output={new}")
    for report in (
        tmp_path,
        tmp_path / ("x" * 300),
        tmp_path / "file" / "x",
        new / "report.json",
    ):
        status, _, err = call(*flags, f"--report={report}")
        assert (status, err.count("\n")) == (2, 1)
        assert "--report" in err
    copy = index / "snapshot.bin"
    before, link = copy.read_bytes(), tmp_path / "link"
    link.symlink_to(index)
    for page in (copy, index / "a" / "page.html", link / "page.html", index):
        status, out, err = call("query", f"--index={index}", "red", f"--html={page}")
        assert (status, out, err.count("\n")) == (2, "", 1)
        assert "; use another file" in err
    status, _, err = call("export", f"--index={index}", f"--output={index}/x.npy")
    assert (status, f"is inside {index}, the folder of --index" in err) == (2, True)
    assert copy.read_bytes() == before
    assert not loaded
    assert not new.exists()


def test_a_file_of_others_is_not_replaced_by_what_stands_beside_an_export(
    call, loaded, made, tmp_path
):
    output, beside = tmp_path / "keep.npy", tmp_path / "keep.jsonl"
    export = ("export", f"--index={made[1]}", f"--output={output}")
    for text in ("mine\n", "[" * 100_000, '{"video": 1}\n'):
        beside.write_text(text)
        status, _, err = call(*export)
        assert (status, err.count("\n")) == (2, 1)
        assert "keep.jsonl, which is written beside the .npy file, is there" in err
        assert beside.read_text() == text
        assert not output.exists()
    beside.unlink()
    for _ in range(2):
        assert call(*export)[0] == 0


def test_a_folder_without_a_video_is_told(call, loaded, made, tmp_path):
    folder, index = made
    query = ("query", f"--index={index}", "red")
    status, _, err = call(*query, "--folder=b")
    assert status == 0
    assert f"no video of the index is below b, which is relative to {folder}" in err
    assert err.rstrip().endswith("; there are a")
    assert call(*query, f"--folder={folder / 'a'}")[::2] == (0, "")
    assert call(*query, "--folder=a", "--min_seconds=9")[::2] == (0, "")
    status, _, err = call(*query, f"--videos={tmp_path}", "--top=3")
    assert status == 0
    assert err.count(f"none of these files is in {tmp_path}") == 1
    assert "none of these" not in call(*query)[2]


def test_filters_that_no_video_can_pass_are_refused(call, loaded, made):
    query = ("query", f"--index={made[1]}", "red")
    status, _, err = call(*query, "--min_seconds=5", "--max_seconds=1")
    assert (status, err.count("\n")) == (2, 1)
    assert "min_seconds is more than max_seconds, so no video passes" in err
    assert call(*query, "--since=2026-01-02", "--until=2025-12-31")[0] == 2
    assert call(*query, "--since=2026-01-02", "--until=2026-01-02")[0] == 0
    assert len(loaded) == 1
