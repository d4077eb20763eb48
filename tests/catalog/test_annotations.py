"""Annotation files as published, at their published size, and broken ones."""

import json
import os
import pickle

import published
import pytest
from own_time import at_most

from data_pipelines.catalog.table import DATASETS
from data_pipelines.console.errors import UserError


def read(name, folder):
    return DATASETS[name].read(folder)


def count(found):
    return {
        split: (len(videos), sum(len(video.captions) for video in videos))
        for split, videos in found.splits.items()
    }


@pytest.mark.parametrize("name", published.FORMS)
def test_counts_are_the_published_ones(name, tmp_path):
    published.FORMS[name](tmp_path)
    found = count(read(name, tmp_path))
    for split, (videos, captions) in DATASETS[name].published.items():
        assert found[split][0] == videos
        assert captions in (None, found[split][1])
    assert "test" in found


def test_captions_that_repeat_a_clip_stay_pairs(tmp_path):
    published.lsmdc(tmp_path, train=1000, val=1, test=1)
    assert count(read("lsmdc", tmp_path))["train"] == (990, 1000)


def test_paragraphs_are_joined_in_the_order_of_the_file(tmp_path):
    published.didemo(tmp_path, 20, 2, 2)
    found = read("didemo", tmp_path)
    assert found.splits["train"][8].files == ("00008@N00_train_8",)
    assert found.splits["train"][8].captions == (
        "train moment 0 train moment 1 train moment 2",
    )
    published.activitynet(tmp_path, 3, 2)
    found = read("activitynet", tmp_path)
    assert found.splits["test"][0].captions == (
        "Someone begins. They go on. They stop.",
    )
    assert found.splits["test"][0].files == ("v_v0000000000", "v0000000000")
    assert len(found.without_captions["train"]) == 15


def test_msrvtt_takes_each_splits_own_captions(tmp_path):
    published.msrvtt(tmp_path, 3, 2, captions=2)
    found = read("msrvtt_9k", tmp_path)
    assert [video.video_id for video in found.splits["train"]] == [
        "video0",
        "video1",
        "video2",
    ]
    # The test has one caption of its own, not those of the JSON.
    assert found.splits["test"][0].captions == ("a person is, in a way, doing 0",)


@pytest.mark.parametrize("newline", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("mark", [b"", b"\xef\xbb\xbf"])
def test_any_line_end_and_a_byte_order_mark(tmp_path, newline, mark):
    for name in ("msrvtt_9k", "lsmdc", "msvd", "didemo"):
        folder = tmp_path / name
        folder.mkdir()
        sizes = {"train": 3, "test": 2}
        published.FORMS[name](folder, **sizes)
        expected = read(name, folder)
        for path in folder.iterdir():
            text = path.read_text().replace("\n", newline)
            path.write_bytes(mark + text.encode())
        found = read(name, folder)
        assert found.splits == expected.splits


def test_unicode_is_kept_as_it_is(tmp_path):
    said = "ein Kätzchen\u2028schläft 猫 \U0001f431 \x0b zwei"
    published.msrvtt(tmp_path, 1, 1, captions=1)
    table = "key,vid_key,video_id,sentence\nret0,msr1,video1," + said + "\n"
    (tmp_path / "MSRVTT_JSFUSION_test.csv").write_text(table, newline="")
    found = read("msrvtt_9k", tmp_path)
    assert found.splits["test"][0].captions == (said,)
    published.lsmdc(tmp_path, 1, 1, 1)
    row = "\t".join(["0001_A_00.1", *["0"] * 4, said])
    (tmp_path / "LSMDC16_annos_val.csv").write_text(row + "\n", newline="")
    assert read("lsmdc", tmp_path).splits["validation"][0].captions == (said,)


def test_ids_twice_empty_captions_and_ids_without_any_are_reported(tmp_path):
    published.msvd(tmp_path, 4, 1, 2, test_captions=4, captions=3)
    ids = (tmp_path / "train_list.txt").read_text().split()
    published.lines(tmp_path / "train_list.txt", [*ids, ids[1], "nobody"])
    path = tmp_path / "captions_msvd.json"
    captions = json.loads(path.read_text())
    captions[ids[0]] = ["fine", "  ", ""]
    captions[ids[2]] = [" "]
    path.write_text(json.dumps(captions))
    found = read("msvd", tmp_path)
    assert [x.video_id for x in found.splits["train"]] == [ids[0], ids[1], ids[3]]
    assert found.splits["train"][0].captions == ("fine",)
    assert found.repeated["train"] == [ids[1]]
    assert found.without_captions["train"] == [ids[2], "nobody"]
    assert found.empty_captions["train"] == 3


def test_captions_of_ids_that_no_list_has_are_reported(tmp_path):
    published.didemo(tmp_path, 3, 1, 1)
    published.lines(tmp_path / "train_list.txt", ["00000@N00_train_0.mp4"])
    found = read("didemo", tmp_path)
    assert found.unlisted["train"] == ["00001@N00_train_1", "00002@N00_train_2"]


def broken(name, file, content, says):
    return pytest.param(name, file, content, says, id=f"{name}-{says[:24]}")


NUMBER = {"sentences": [{"video_id": "video0", "caption": 5}]}
NO_KEY = {"sentences": [{"video_id": "video0"}]}
DOUBLED = "{" + "".join(f'"{i}": [], ' for i in range(100_000)) + '"99999": []}'
MANY = [1] * 10**6
LONG = {"sentences": [{"video_id": "video0", "caption": "a" * 10**6}]}
DATA, TRAIN = "MSRVTT_data.json", "MSRVTT_train.9k.csv"


@pytest.mark.parametrize(
    ("name", "file", "content", "says"),
    [
        broken("msrvtt_9k", DATA, None, r"MSRVTT_data.json cannot be read \(No such"),
        broken("msrvtt_9k", DATA, "{}", r"data.json lacks the key 'sentences'"),
        broken("msrvtt_9k", DATA, "[1]", r"is \[1\]; it must be an object"),
        broken("msrvtt_9k", DATA, '{"sentences": 3}', "sentences is 3; .* a list"),
        broken("msrvtt_9k", DATA, json.dumps(NO_KEY), r"\[0\] lacks the key 'caption'"),
        broken("msrvtt_9k", DATA, json.dumps(NUMBER), "caption is 5; .* a string"),
        broken("msrvtt_9k", DATA, '{"sentences": [{', "is not JSON .*line 1 column"),
        broken("msrvtt_9k", DATA, "[" * 100_000, "nested too deeply|not JSON|brackets"),
        broken("msrvtt_9k", DATA, b'{"a": "\xe4"}', "is not UTF-8"),
        broken("msrvtt_9k", DATA, '{"sentences": []}', "the train split has no video"),
        broken("msrvtt_9k", TRAIN, "id\nvideo0\n", "header lacks video_id; it is id"),
        broken("msrvtt_9k", TRAIN, "", "header lacks video_id; it is empty"),
        broken("msrvtt_9k", TRAIN, "video_id\na,b\n", "line 2: 2 fields instead of 1"),
        broken("msrvtt_9k", TRAIN, 'video_id\n"a\n', "unexpected end of data"),
        broken("msrvtt_9k", TRAIN, "video_id\nv\n".encode("utf-16"), "not UTF-8"),
        broken("didemo", "val_data.json", "[{}]", r"\[0\] lacks the key 'video'"),
        broken("didemo", "test_list.txt", "", "the test split has no video"),
        broken("activitynet", "train_ids.json", "{}", "must be a list"),
        broken("activitynet", "train_ids.json", "[1]", r"\[0\] is 1; .* a string"),
        broken("activitynet", "val_1.json", '{"v": {}}', "'v' lacks the key"),
        broken("activitynet", "val_1.json", '{"v": 1, "v": 2}', "'v' appears twice"),
        broken("lsmdc", "LSMDC16_annos_val.csv", "a\tb\tc", "line 1: 3 fields .* tabs"),
        broken("lsmdc", "LSMDC16_annos_val.csv", "a b c d e f", "1 fields instead"),
        broken("msvd", "captions_msvd.json", '{"a": "b"}', "'a' is \"b\"; .* a list"),
        broken("msvd", "captions_msvd.json", '{"a": ["\\ud800"]}', "surrogate"),
        broken("vatex", "ref_captions.json", '{"a": [], "a": []}', "appears twice"),
        broken("vatex", "ref_captions.json", DOUBLED, "'99999' appears twice"),
        broken("vatex", "ref_captions.json", '{"a": NaN}', "NaN is out of range"),
        broken("vatex", "ref_captions.json", "9" * 5000, "is out of range"),
        broken("vatex", "ref_captions.json", json.dumps({"a": MANY}), "0. is 1; it"),
        broken("vatex", "train_list.txt", "a\0b", "control characters"),
        broken("vatex", "train_list.txt", "a" * 5000, "a name has 1 to 1000 bytes"),
        broken("activitynet", "train_ids.json", '["a", ""]', "a name has 1 to 1000"),
        broken("activitynet", "train_ids.json", '["\\u0007"]', "control characters"),
        broken("activitynet", "val_1.json", '{"v": {"sentences": [1]}}', "ces.0. is 1"),
        broken("msrvtt_9k", TRAIN, "video_id\n" + "a" * 200_000, "field larger than"),
        broken("msrvtt_9k", TRAIN, "video_id,video_id\na,b\n", "has video_id twice"),
        broken("msrvtt_9k", TRAIN, '"a\nb"\n', "header lacks video_id; it is a b"),
        broken("msrvtt_9k", TRAIN, "video_id\na\0b\n", "control characters"),
        broken("msrvtt_9k", DATA, json.dumps(LONG), "more than 100,000 characters"),
        broken("lsmdc", "LSMDC16_annos_val.csv", "\t" * 5 + "said", "has 1 to 1000"),
    ],
)
def test_broken_files_are_one_clear_line(name, file, content, says, tmp_path):
    sizes = {"train": 2, "test": 2}
    published.FORMS[name](tmp_path, **sizes)
    read(name, tmp_path)
    if content is None:
        (tmp_path / file).unlink()
    else:
        raw = content if isinstance(content, bytes) else content.encode()
        (tmp_path / file).write_bytes(raw)
    with at_most(2), pytest.raises(UserError, match=says) as error:
        read(name, tmp_path)
    assert "\n" not in str(error.value)
    assert len(str(error.value)) < 700


@pytest.mark.parametrize("name", published.FORMS)
def test_a_pipe_among_the_files_is_not_waited_for(name, tmp_path):
    published.FORMS[name](tmp_path, train=2, test=2)
    for path in sorted(tmp_path.iterdir()):
        aside = path.rename(path.with_suffix(".aside"))
        os.mkfifo(path)
        with pytest.raises(UserError, match="not a regular file") as error:
            read(name, tmp_path)
        assert str(path) in str(error.value)
        path.unlink()
        aside.rename(path)


@pytest.mark.parametrize("suffix", [".csv", ".jsonl"])
def test_a_pipe_of_ones_own_rows_is_not_waited_for(tmp_path, suffix):
    os.mkfifo(tmp_path / f"rows{suffix}")
    for path in (tmp_path, tmp_path / f"rows{suffix}"):
        with pytest.raises(UserError, match="not a regular file"):
            read("custom", path)


def test_a_pickle_is_refused_by_the_name_of_the_form_that_is_read(tmp_path):
    published.msvd(tmp_path, 2, 1, 1, test_captions=2)
    (tmp_path / "captions_msvd.json").unlink()
    (tmp_path / "raw-captions.pkl").write_bytes(pickle.dumps({"a": [["b"]]}))
    with pytest.raises(UserError, match=r"is a pickle, .*captions_msvd.json"):
        read("msvd", tmp_path)


def custom(tmp_path, text, suffix=".csv"):
    path = tmp_path / f"rows{suffix}"
    path.write_text(text)
    return read("custom", path)


def test_custom_rows_of_one_video_are_its_captions(tmp_path):
    rows = [
        {"video": "a/x.mp4", "caption": "one", "split": "train"},
        {"video": "b/x.mp4", "caption": "two", "split": "test", "fps": 25},
        {"video": "a/x.mp4", "caption": "three", "split": "train"},
    ]
    found = custom(tmp_path, "\n".join(json.dumps(row) for row in rows), ".jsonl")
    assert found.by_path
    (video,) = found.splits["train"]
    assert video == ("a/x", ("a/x.mp4",), ("one", "three"), {})
    assert [x.video_id for x in found.splits["test"]] == ["b/x"]
    assert list(found.splits) == ["train", "test"]


def test_custom_without_a_split_is_split_by_a_hash(tmp_path):
    rows = [f"v{i}.mp4,says {i}" for i in range(40)]
    head = "video,caption\n"
    found = custom(tmp_path, head + "\n".join(rows))
    assert {name: len(x) for name, x in found.splits.items()} == {
        "train": 32,
        "validation": 4,
        "test": 4,
    }
    again = custom(tmp_path, head + "\n".join(reversed(rows)))
    for name in found.splits:
        assert sorted(found.splits[name]) == sorted(again.splits[name])


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("video,caption\n", "has no rows"),
        ("video,text\na,b\n", "the header lacks caption"),
        ("video,caption\na,b\n", "names 1 videos; to be split"),
        ("video,caption\n,b\n", "line 2: the video is empty"),
        ("video,caption,split\na,b,dev2\n", "split is 'dev2'"),
        ("video,caption,split\na,b,train\na,c,test\n", "split of 'a' is 'test', but"),
        ("video,caption,split\na,b,train\nb,c,\n", "'b' has no split"),
        ("video,caption,video_id\na,b,1\nc,d,1\n", "video of '1' is 'c', but 'a'"),
    ],
)
def test_custom_mistakes(tmp_path, text, says):
    with pytest.raises(UserError, match=says):
        custom(tmp_path, text)


@pytest.mark.parametrize("video", [".", "/", "a/..", "../x.mp4", "/etc/x.mp4", "./"])
def test_a_path_that_leaves_the_folder_of_videos_is_refused(tmp_path, video):
    for suffix, text in (
        (".csv", f"video,caption\n{video},b\n"),
        (".jsonl", json.dumps({"video": video, "caption": "b"})),
    ):
        with pytest.raises(UserError, match=r"line \d: .*not a path inside the folder"):
            custom(tmp_path, text, suffix)


@pytest.mark.parametrize(
    ("row", "says"),
    [
        ({"video": "a" * 5000}, "a name has 1 to 1000 bytes"),
        ({"video": "a" * 300}, "a part of more than 255 bytes"),
        ({"video": "a\0.mp4"}, "control characters"),
        ({"video": "a\nb.mp4"}, "control characters"),
        ({"video": "\ud800.mp4"}, "surrogate"),
        ({"video": 5}, "line 1: video is 5; it must be a string"),
        ({"video": ["a"]}, "video is"),
        ({"video": "a", "caption": None}, "caption is null; it must be a string"),
        ({"video": "a", "video_id": "x" * 5000}, "a name has 1 to 1000 bytes"),
        ({"video": "a", "split": "t" * 10**6}, "use train, validation, test"),
    ],
    ids=lambda x: str(x)[:20],
)
def test_rows_of_another_kind_are_one_line(tmp_path, row, says):
    rows = [{"caption": "b", "split": "train"} | row]
    rows.append({"video": "z", "caption": "c", "split": "test"})
    with pytest.raises(UserError, match=says) as error:
        custom(tmp_path, "\n".join(json.dumps(x) for x in rows), ".jsonl")
    assert "\n" not in str(error.value)
    assert len(str(error.value)) < 300


def test_a_suffix_in_upper_case_is_the_same(tmp_path):
    rows = "video,caption,split\na.mp4,one,train\nb.mp4,two,test\n"
    found = custom(tmp_path, rows, ".CSV")
    assert found.splits["train"][0].files == ("a.mp4",)
    assert read("custom", tmp_path).splits == found.splits


def test_custom_needs_one_file(tmp_path):
    with pytest.raises(UserError, match="does not exist"):
        read("custom", tmp_path / ("a" * 5000))
    with pytest.raises(UserError, match="holds 0 "):
        read("custom", tmp_path)
    with pytest.raises(UserError, match="does not exist; use another --annotations"):
        read("custom", tmp_path / "none.csv")
