"""Rows of captions held against the folder: mistakes, splits, what is written."""

import csv
import unicodedata

import pytest
from own_time import at_most

from data_pipelines.console.errors import UserError
from data_pipelines.datasets.custom.annotations import read
from data_pipelines.decoding.video_files import VideoFiles
from vop_jax.own_data.captions_file import read_captions
from vop_jax.own_data.known import changes, looked_at, unreadable_lines
from vop_jax.own_data.mistakes import Mistake, lines_of, some
from vop_jax.own_data.pairs import Pairs, as_csv, pairs_of, tell_unused, with_splits


@pytest.fixture
def folder(tmp_path):
    """Twelve files, of which nothing is read here."""
    for i in range(12):
        path = tmp_path / "videos" / ("first" if i < 6 else "second") / f"{i}.mp4"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(bytes([i]) * 100)
    return tmp_path


def names(count=12):
    return [f"{'first' if i < 6 else 'second'}/{i}.mp4" for i in range(count)]


def table(folder, rows, header=("video", "caption")):
    path = folder / "x.csv"
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([header, *rows])
    return read_captions(path)


def pairs(folder, rows, *, leave_out=False, **options):
    files = VideoFiles(folder / "videos")
    return pairs_of(table(folder, rows, **options), files, leave_out=leave_out)


def good(count=12):
    return [(name, f"said of {name} {i}") for name in names(count) for i in (1, 2)]


WRONG = [
    ("first/0.mp4", "", "the caption is empty; write one"),
    ("first/x.mp4", "a dog", "no such file below"),
    ("first/0.mp4", "a\0dog", "the caption holds a null character; remove it"),
    ("0.mp4", "a dog", "(is it first/0.mp4?)"),
    ("first/0", "a dog", "(is it first/0.mp4?)"),
    ("films\\0.mov", "a dog", "(is it first/0.mp4?)"),
    ("", "a dog", "the video is empty; name a file"),
    ("../0.mp4", "a dog", "the folder of videos: '../0.mp4'; name it relative to"),
    ("/0.mp4", "a dog", "not a path inside the folder of videos"),
    ("first", "a dog", "a folder, not a video: first; name its files"),
    ("x" * 300, "a dog", "of more than 255 bytes, which no file is called: 'xxx"),
    ("x" * 300, "a dog", "'...; use the name of its file"),
    ("x" * 2000, "a dog", "'...; a name has 1 to 1000 bytes"),
    ("a\x07b.mp4", "a dog", r"holds control characters: 'a\x07b.mp4'; use one"),
    ("first/0.mp4", "a" * 100_001, "has more than 100,000 characters; shorten it"),
]


@pytest.mark.parametrize(("video", "caption", "says"), WRONG)
def test_a_mistake_is_one_line_with_its_row(folder, video, caption, says):
    rows = [*good(1), (video, caption), *good()]
    with pytest.raises(UserError) as error:
        pairs(folder, rows)
    assert says in str(error.value)
    assert "x.csv, row 4: " in str(error.value)
    assert "--leave_out" in str(error.value)
    assert "\n" not in str(error.value)
    kept = pairs(folder, rows, leave_out=True)
    assert kept == pairs(folder, [*good(1), *good()])._replace(
        rows=kept.rows, named=kept.named
    )


def test_mistakes_of_several_kinds_are_all_listed_before_the_end(folder, capsys):
    rows = [*((x, y) for x, y, _ in WRONG[:2]), *good(), ("first/0.mp4", "  ")]
    with pytest.raises(UserError, match="has 2 kinds of mistakes, listed above"):
        pairs(folder, rows)
    listed = capsys.readouterr().err.splitlines()
    assert len(listed) == 2
    assert "rows 2 and 28: the caption is empty" in listed[0]
    assert "row 3: no such file" in listed[1]


@pytest.mark.parametrize(
    "name",
    ["../{}.mp4", "/{}", "{}" + "x" * 300, "{}" + "x" * 2000, "a\x01{}", "{}.mp4"],
)
def test_many_wrong_names_of_a_kind_are_one_line(folder, name):
    rows = [(name.format(f"no{i}"), "a dog") for i in range(30)]
    with pytest.raises(UserError, match=r"rows 2, 3, 4, 5, 6 and 25 more: .*: .*no0"):
        pairs(folder, rows)


def test_the_videos_that_cannot_be_read_are_a_line_for_each_reason(folder):
    files = VideoFiles(folder / "videos")
    reasons = {
        name: f"{files.root / name} cannot be decoded ({why}: {files.root / name})"
        for name, why in zip(names(4), "abbb", strict=True)
    }
    lines = unreadable_lines(reasons, pairs(folder, good()).rows, files)
    assert lines == [
        "rows 2 and 3: first/0.mp4 cannot be read (it cannot be decoded (a: it))",
        "rows 4, 5, 6, 7, 8 and 1 more: first/1.mp4, first/2.mp4 and first/3.mp4 "
        "cannot be read (it cannot be decoded (b: it))",
    ]


def test_only_another_video_that_is_there_is_suggested(folder):
    videos = folder / "videos"
    (videos / "loop.mp4").symlink_to("loop.mp4")
    (videos / "gone.mp4").symlink_to("nowhere")
    for name in ("up/x.safetensors", "up/gone.webm"):
        (videos / name).parent.mkdir(exist_ok=True)
        (videos / name).write_bytes(b"x")

    def said(name):
        with pytest.raises(UserError) as error:
            pairs(folder, [(name, "a dog")])
        return str(error.value)

    assert "a link that leads nowhere: loop.mp4; correct the links" in said("loop.mp4")
    assert "no such file" in said("x.mp4")
    for name in ("loop.mp4", "x.mp4", "other/loop.mp4"):
        assert "is it" not in said(name)
    assert "other/gone.mp4 (is it up/gone.webm?)" in said("other/gone.mp4")


def test_accents_are_found_however_they_are_written(folder):
    """MacOS composes the letters of file names in another way than a spreadsheet."""
    apart, composed = (unicodedata.normalize(x, "Käse.mp4") for x in ("NFD", "NFC"))
    (folder / "videos" / apart).write_bytes(b"x")
    found = pairs(folder, [*good(), (composed, "cheese"), (apart, "more")])
    assert found.captions[apart] == ["cheese", "more"]


def test_many_captions_and_many_videos_take_time_in_proportion(folder):
    """A second or so, and minutes if each were held against all the others."""
    with at_most(6):
        found = pairs(folder, [("first/0.mp4", f"cap {i}") for i in range(30_000)])
        assert len(found.captions["first/0.mp4"]) == 30_000
        many = Pairs({f"{i}.mp4": ["a"] for i in range(20_000)}, {}, {})
        left = many.without([f"{i}.mp4" for i in range(10_000)])
        assert len(left.captions) == 10_000


def test_a_look_at_many_names_shows_how_far_it_is(folder, capsys):
    rows = [*good(), *((f"no{i}.mp4", "a dog") for i in range(1_000))]
    pairs(folder, rows, leave_out=True)
    assert "checking 1,012/1,012" in capsys.readouterr().err


def test_many_rows_are_counted():
    found = [Mistake(row, "wrong", "right it", f"n{row}") for row in range(2, 20)]
    (line,) = lines_of("x.csv", found)
    assert line == (
        "x.csv, rows 2, 3, 4, 5, 6 and 13 more: wrong: n2, n3, n4, n5, n6 and 13 more; "
        "right it"
    )
    assert some(["a"]) == "a"
    assert some(["a", "b"]) == "a and b"


def test_a_pair_that_is_repeated_is_used_once_and_told(folder, capsys):
    found = pairs(folder, [*good(), good()[0], ("./first/0.mp4", "another")])
    assert found.captions["first/0.mp4"] == [*(y for _, y in good()[:2]), "another"]
    assert "row 26: the same video and caption" in capsys.readouterr().err


def test_videos_without_a_caption_are_told(folder, capsys):
    found = pairs(folder, good(10))
    tell_unused(found, VideoFiles(folder / "videos"))
    line = capsys.readouterr().err
    assert "2 videos of" in line
    assert "second/10.mp4 and second/11.mp4" in line
    (folder / "videos/notes.doc").write_text("of no interest")
    tell_unused(pairs(folder, good()), VideoFiles(folder / "videos"))
    assert not capsys.readouterr().err


@pytest.mark.parametrize(("count", "held"), [(6, 2), (12, 2)])
def test_two_videos_at_least_are_held_out_twice(folder, count, held):
    found = with_splits("x", pairs(folder, good(count)))
    splits = list(found.split_of.values())
    assert (splits.count("test"), splits.count("validation")) == (held, held)
    # Whatever the order of the rows.
    turned = with_splits("x", pairs(folder, good(count)[::-1]))
    assert turned.split_of == found.split_of


@pytest.mark.parametrize(
    ("rows", "says"),
    [
        (good(2), "has 2 videos with captions that can be used; 6 are the fewest"),
        (good(1)[:1], "has 1 video with captions"),
        ([(x, "A  film") for x in names()], "all captions are the same, 'a film'"),
    ],
)
def test_too_little_to_learn_from_is_one_line(folder, rows, says):
    with pytest.raises(UserError) as error:
        with_splits("x.csv", pairs(folder, rows))
    assert says in str(error.value)


HEADER = ("video", "caption", "split")


def with_split(splits):
    named = zip(good(), splits, strict=True)
    return [(*row, split) for row, split in named]


def test_the_file_s_own_splits_are_kept(folder):
    rows = with_split([*["train"] * 16, *["val"] * 4, *["Test"] * 4])
    found = with_splits("x", pairs(folder, rows, header=HEADER))
    assert [found.split_of[x] for x in names()[7:]] == [
        *("train", "validation", "validation", "test", "test")
    ]


@pytest.mark.parametrize(
    ("splits", "says"),
    [
        (["train"] * 24, "the column split has 0 videos for test"),
        (["test"] * 22 + ["train"] * 2, "the column split has 1 video for train"),
        (["train"] * 20 + [""] * 4, "rows 22, 23, 24 and 25: the split is empty"),
        (["train"] * 23 + ["test"], "row 25: a video in a second split: second/11.mp4"),
        (["train"] * 23 + ["tost"], "row 25: not the name of a split: tost; use train"),
    ],
)
def test_wrong_splits_are_one_line(folder, splits, says):
    with pytest.raises(UserError) as error:
        with_splits("x", pairs(folder, with_split(splits), header=HEADER))
    assert says in str(error.value)


def test_what_is_written_is_read_as_it_was_meant(folder):
    """Two files of one stem keep apart, and so do commas and lines in a caption."""
    (folder / "videos/first/0.webm").write_bytes(b"x")
    rows = [*good(), ("first/0.webm", 'a "dog", \nand more')]
    found = with_splits("x", pairs(folder, rows))
    (folder / "captions.csv").write_text(as_csv(found))
    annotations = read(folder / "captions.csv")
    listed = {x.files[0]: x for split in annotations.splits.values() for x in split}
    assert {x: list(y.captions) for x, y in listed.items()} == found.captions
    assert listed["first/0.webm"].video_id == "first/0.webm"
    assert listed["first/1.mp4"].video_id == "first/1"
    for split, videos in annotations.splits.items():
        assert {found.split_of[x.files[0]] for x in videos} == {split}


class NoWorkers:
    """Says of every video that it cannot be read; nothing is decoded."""

    def run(self, jobs):
        from data_pipelines.decoding.video_job import Result

        for job in jobs:
            yield job, Result("damaged", "no")


def test_changes_are_noticed_and_copies_are_not(folder):
    files = VideoFiles(folder / "videos")
    one = pairs(folder, good())
    known = looked_at(one, files, NoWorkers())  # pyright: ignore[reportArgumentType]
    assert changes(known, one, files) == ""
    other = pairs(folder, [*good()[1:], ("first/1.mp4", "more"), ("first/2.mp4", "x")])
    assert changes(known, other, files) == "2 captions added; 1 caption removed"
    # A copied folder has other times; another film has another content.
    path = folder / "videos/first/3.mp4"
    path.write_bytes(path.read_bytes())
    assert changes(known, one, files) == ""
    path.write_bytes(b"y" * 100)
    assert changes(known, one, files) == "1 video replaced: first/3.mp4"
    split = one._replace(split_of={"first/0.mp4": "test"})
    path.write_bytes(bytes([3]) * 100)
    assert changes(known, split, files) == "the column split changed"


def test_what_is_no_video_and_what_has_a_row_is_not_told(folder, capsys):
    videos = folder / "videos"
    (videos / "empty.mp4").write_bytes(b"")
    (videos / "gone.mp4").symlink_to(folder / "nowhere.mp4")
    (videos / "a\nb.mp4").write_bytes(b"film")
    rows = [*good()[:-2], (good()[-1][0], "")]
    tell_unused(pairs(folder, rows, leave_out=True), VideoFiles(videos))
    line = capsys.readouterr().err.splitlines()[-1]
    assert "1 video of" in line
    assert line.endswith(r"a\nb.mp4'")
