"""Annotation files in the forms that are published, of any size."""

import csv
import json


def lines(path, rows):
    path.write_text("".join(f"{row}\n" for row in rows))


def msrvtt(folder, train=9_000, test=1_000, captions=20, name="9k"):
    """`videoN` for training from 0 on, the test after them."""
    ids = [f"video{i}" for i in range(train)]
    lines(folder / f"MSRVTT_train.{name}.csv", ["video_id", *ids])
    test_ids = [f"video{train + i}" for i in range(test)]
    sentences = [
        {"video_id": video, "caption": f"someone does thing {i} in {video}"}
        for video in ids + test_ids
        for i in range(captions)
    ]
    videos = [{"video_id": video, "split": "train"} for video in ids + test_ids]
    (folder / "MSRVTT_data.json").write_text(
        json.dumps({"videos": videos, "sentences": sentences})
    )
    with (folder / "MSRVTT_JSFUSION_test.csv").open("w") as file:
        writer = csv.writer(file)
        writer.writerow(["key", "vid_key", "video_id", "sentence"])
        for i, video in enumerate(test_ids):
            said = f"a person is, in a way, doing {i}"
            writer.writerow([f"ret{i}", f"msr{train + i}", video, said])


def msrvtt_7k(folder, train=7_010, **sizes):
    msrvtt(folder, train, name="7k", **sizes)


# As in the published lists: ten endings, a bare dot among them.
DIDEMO_ENDINGS = [".mov", ".mp4", ".avi", ".m4v", ".MOV", ".3gp", ".mpg", ".wmv", "."]


def didemo(folder, train=8_392, val=1_065, test=1_004, moments=3):
    for name, count in (("train", train), ("val", val), ("test", test)):
        files = [
            f"{i:05d}@N00_{name}_{i}{DIDEMO_ENDINGS[i % len(DIDEMO_ENDINGS)]}"
            for i in range(count)
        ]
        lines(folder / f"{name}_list.txt", files)
        # File order runs over the moments first, so that joining must group by video.
        data = [
            {"video": file, "description": f" {name} moment {m} ", "times": [[m, m]]}
            for m in range(moments)
            for file in files
        ]
        (folder / f"{name}_data.json").write_text(json.dumps(data))


def activitynet(folder, train=10_009, test=4_917, without=(15, 9), sentences=3):
    """Some ids have no captions, as it is published."""
    for (ids_name, name), count, extra in (
        (("train_ids.json", "train.json"), train, without[0]),
        (("val_ids.json", "val_1.json"), test, without[1]),
    ):
        ids = [f"v_{name[0]}{i:010d}" for i in range(count + extra)]
        (folder / ids_name).write_text(json.dumps(ids))
        said = [" Someone begins. ", " They go on.", "They stop.  "][:sentences]
        entry = {"duration": 9.0, "timestamps": [[0, 3]] * sentences, "sentences": said}
        (folder / name).write_text(json.dumps(dict.fromkeys(ids[:count], entry)))


def lsmdc(folder, train=101_079, val=7_408, test=1_000):
    """Every hundredth training clip has two sentences."""
    for name, count in (
        ("annos_training", train),
        ("annos_val", val),
        ("challenge_1000_publictect", test),
    ):
        rows = []
        for i in range(count):
            number = i - 1 if name == "annos_training" and i % 100 == 99 else i
            clip = f"{number // 1000:04d}_A_{name[-3:]}_00.{number:06d}-01.00.00.129"
            times = "\t".join(["00.00.51.926"] * 4)
            rows.append(f"{clip}\t{times}\tSOMEONE does thing {i}.")
        lines(folder / f"LSMDC16_{name}.csv", rows)


def _lists(folder, counts):
    ids = {}
    for name, count in counts.items():
        ids[name] = [f"{name}-_{i:08d}_10_20" for i in range(count)]
        lines(folder / f"{name}_list.txt", ids[name])
    return ids


def msvd(folder, train=1_200, val=100, test=670, test_captions=27_763, captions=40):
    ids = _lists(folder, {"train": train, "val": val, "test": test})
    said = {x: captions for name in ("train", "val") for x in ids[name]}
    each, rest = divmod(test_captions, test)
    said |= {x: each + (i < rest) for i, x in enumerate(ids["test"])}
    (folder / "captions_msvd.json").write_text(
        json.dumps({x: [f"{x} does {i}" for i in range(n)] for x, n in said.items()})
    )


def vatex(folder, train=25_991, val=1_500, test=1_500, captions=10):
    ids = _lists(folder, {"train": train, "val": val, "test": test})
    every = [x for some in ids.values() for x in some]
    (folder / "ref_captions.json").write_text(
        json.dumps({x: [f"{x} does {i}" for i in range(captions)] for x in every})
    )


def custom(folder, train=80, validation=10, test=10, captions=2):
    with (folder / "videos.csv").open("w") as file:
        writer = csv.writer(file)
        writer.writerow(["video", "caption", "split"])
        for split, count in (
            ("train", train),
            ("validation", validation),
            ("test", test),
        ):
            for i in range(count):
                for c in range(captions):
                    said = f"{split} {i}, said {c}"
                    writer.writerow([f"clips/{split}{i}.mp4", said, split])


FORMS = {
    "msrvtt_9k": msrvtt,
    "msrvtt_7k": msrvtt_7k,
    "didemo": didemo,
    "activitynet": activitynet,
    "lsmdc": lsmdc,
    "msvd": msvd,
    "vatex": vatex,
    "custom": custom,
}
