"""Tables of captions as spreadsheets save them, and mistakes in them by row."""

import codecs
import csv

import pytest

from data_pipelines.console.errors import UserError
from vop_jax.own_data.captions_file import read_captions

ROWS = [("video", "caption"), ("a.mp4", "a café, at noon"), ("b.mp4", "night")]


def written(path, rows=ROWS, *, encoding="utf-8", separator=",", start=""):
    with path.open("w", encoding=encoding, newline="") as file:
        file.write(start)
        csv.writer(file, delimiter=separator).writerows(rows)
    return path


@pytest.mark.parametrize(
    ("form", "said"),
    [
        ({}, ""),
        ({"encoding": "utf-8-sig"}, ""),
        ({"separator": ";"}, "separated by semicolons"),
        ({"separator": ";", "start": "sep=;\n"}, "separated by semicolons"),
        ({"separator": "\t", "start": "sep=\t\r\n"}, "separated by tabs"),
        ({"encoding": "utf-16", "separator": "\t"}, "UTF-16, separated by tabs"),
        ({"encoding": "utf-16-be"}, "UTF-16"),
        ({"encoding": "utf-16-le"}, "UTF-16"),
        ({"encoding": "utf-8-sig", "separator": "\t"}, "separated by tabs"),
    ],
)
def test_whatever_a_spreadsheet_saves_is_read_alike(tmp_path, form, said):
    table = read_captions(written(tmp_path / "x.csv", **form))
    assert [(x.number, x.video, x.caption) for x in table.rows] == [
        (2, "a.mp4", "a café, at noon"),
        (3, "b.mp4", "night"),
    ]
    assert table.form == said
    assert not table.mistakes


def test_columns_may_stand_in_any_order_with_others_between(tmp_path):
    rows = [(" Caption", "id", "VIDEO", "Split"), ("night", "7", "b.mp4", "train")]
    (row,) = read_captions(written(tmp_path / "x.csv", rows)).rows
    assert (row.video, row.caption, row.split) == ("b.mp4", "night", "train")


def test_rows_are_counted_as_a_spreadsheet_does(tmp_path):
    """A caption of two lines is one row, and a blank row is one as well."""
    rows = [*ROWS[:1], ("a.mp4", "one\ntwo"), (), ("b.mp4", "night")]
    table = read_captions(written(tmp_path / "x.csv", rows))
    assert [x.number for x in table.rows] == [2, 4]


def test_rows_of_another_length_are_mistakes_of_their_own(tmp_path):
    path = tmp_path / "x.csv"
    path.write_text("video,caption\na.mp4,one, two\nb.mp4\nc.mp4,three\n")
    table = read_captions(path)
    assert [x.video for x in table.rows] == ["c.mp4"]
    assert [(x.row, x.what) for x in table.mistakes] == [
        (2, "more than 2 fields"),
        (3, "fewer than 2 fields"),
    ]


TEXT = "\nvideo,caption\na.mp4,a dog\n"
ODD = [
    *(TEXT.encode(codec) for codec in ("utf-32", "utf-32-le", "utf-32-be")),
    codecs.BOM_UTF32_BE + TEXT.encode("utf-32-be"),
    codecs.BOM_UTF8 * 2 + TEXT.strip().encode(),
    codecs.BOM_UTF16_LE * 2 + TEXT.strip().encode("utf-16-le"),
]


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "is empty"),
        (b"\n\n", "is empty"),
        (b"video,captions\na,b\n", "no column caption, only 'video', 'captions'"),
        (b"video,captions\na,b\n", "did you mean captions?"),
        (b"a.mp4,a dog\n", "row 1: there is no column video and no column caption"),
        (b"video,caption,caption\n", "the column caption is there twice"),
        (
            b"video,caption\na.mp4,caf\xe9\n",
            "line 2: it is not UTF-8 (byte 0xe9); save",
        ),
        (b'video,caption\na.mp4,"x\nb.mp4,y\n', "quotation mark"),
        (b"x" * 140_000, "row 1: field larger than field limit (131072); look for"),
        (b"video,caption\na," + b"x" * 140_000, "or for a field that is too long"),
        (b"PK\x03\x04 and more", "is a workbook"),
        *(
            (content, "its encoding is not understood; save it again")
            for content in ODD
        ),
    ],
)
def test_what_is_no_table_of_captions_is_one_line(tmp_path, content, says):
    path = tmp_path / "x.csv"
    path.write_bytes(content)
    with pytest.raises(UserError) as error:
        read_captions(path)
    assert says in str(error.value)
    assert str(path) in str(error.value)
    assert "\n" not in str(error.value)


def test_a_missing_file_and_a_folder_are_named(tmp_path):
    for path in (tmp_path / "x.csv", tmp_path):
        with pytest.raises(UserError, match="--captions"):
            read_captions(path)
