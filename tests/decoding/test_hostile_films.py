"""Files made hostile out of valid ones: frames or a status, soon and in bounds."""

import functools
import multiprocessing
import re
import time
from pathlib import Path

import odd_films
import pytest
from films import film
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from written_films import write

from data_pipelines.decoding.frames import STATUSES, VideoError, decode_uniform, probe
from data_pipelines.decoding.memory import limit_process
from data_pipelines.decoding.video_job import MEMORY
from data_pipelines.decoding.video_status import OF_THE_MOMENT

EXAMPLES = 2000
# Of processor time, so that a busy machine fails nothing.
SECONDS = 2.0
MEGABYTES = 500
SMALL = {"count": 8, "size": (16, 16), "gop": 4}
SEEDS = {
    "a.mp4": {},
    "b.mp4": {"options": {"movflags": "frag_keyframe+empty_moov"}},
    # Its header alone is read.
    "d.mp4": {"bframes": 0},
    "c.mp4": {"options": {"movflags": "faststart"}, "codec": "mpeg4"},
    "a.mkv": {},
    "a.webm": {"codec": "libvpx"},
    "b.webm": {"codec": "libvpx-vp9", "size": (64, 64)},
    "a.avi": {"codec": "mpeg4"},
    "a.flv": {},
    "a.ts": {},
    "a.mpg": {"codec": "mpeg2video"},
    "a.wmv": {"codec": "wmv2"},
    "a.gif": {"codec": "gif"},
    "a.nut": {},
}
CHANGES = st.lists(
    st.tuples(
        st.sampled_from(["set", "set", "set", "zero", "cut", "drop", "insert", "copy"]),
        st.floats(0, 1, exclude_max=True),
        st.one_of(st.binary(min_size=1, max_size=8), st.just(b"\xff" * 4)),
    ),
    min_size=1,
    max_size=4,
)


def changed(content, changes):
    content = bytearray(content)
    for kind, share, data in changes:
        # Most of what a header decides stands at one of the ends.
        place = (
            int(share**3 * len(content)) if data[0] % 2 else int(share * len(content))
        )
        size = len(data)
        if kind == "set":
            content[place : place + size] = data
        elif kind == "zero":
            content[place : place + 8 * size] = bytes(8 * size)
        elif kind == "cut":
            del content[max(place, 16) :]
        elif kind == "drop":
            del content[place : place + size]
        elif kind == "insert":
            content[place:place] = data
        else:
            content[place:place] = content[: 64 * size]
    return bytes(content)


def answer(path, count):
    """What becomes of a file, as a word; anything unforeseen is shown."""
    try:
        probe(path)
    except VideoError as error:
        if error.status not in STATUSES:
            return f"unknown status {error.status}"
    try:
        decoded = decode_uniform(path, count, image_size=32)
    except VideoError as error:
        return error.status
    except BaseException as error:
        return f"{type(error).__name__}: {error}"
    if decoded.frames.shape != (count, 32, 32, 3):
        return f"frames of {decoded.frames.shape}"
    return "ok"


def peak():
    """The most memory that this process has held at once, MiB."""
    status = Path("/proc/self/status").read_text()
    return int(re.findall(r"^VmHWM:\s+(\d+)", status, re.MULTILINE)[0]) / 1024


def serve(connection):
    # As in every process that decodes.
    limit_process(MEMORY)
    while True:
        path, count = connection.recv()
        # From here on the peak is that of this file alone.
        Path("/proc/self/clear_refs").write_text("5")
        before, started = peak(), time.process_time()
        word = answer(path, count)
        seconds = time.process_time() - started
        connection.send((word, seconds, peak() - before))


class Decoder:
    """A process of its own, so that a crash or a hang is an answer as well."""

    def __init__(self):
        context = multiprocessing.get_context("spawn")
        self._connection, theirs = context.Pipe()
        self._process = context.Process(target=serve, args=(theirs,), daemon=True)
        self._process.start()
        theirs.close()

    def ask(self, path, count):
        self._connection.send((path, count))
        if not self._connection.poll(60):
            return "hangs", 60.0, 0.0
        try:
            return self._connection.recv()
        except EOFError:
            return "crashes", 0.0, 0.0

    def close(self):
        self._process.kill()
        self._process.join()
        self._connection.close()


@pytest.fixture(scope="module")
def seeds(tmp_path_factory):
    folder = tmp_path_factory.mktemp("seeds")
    paths = [write(folder / name, **{**SMALL, **x}) for name, x in SEEDS.items()]
    paths.append(odd_films.turned(folder / "turned.mp4", 0, 1, -1, 0))
    paths.append(odd_films.with_aspect(folder / "aspect.mp4", 4, 3))
    paths.append(odd_films.streams(folder / "two.mkv", [(16, 16), (32, 32)]))
    return [(path.suffix, path.read_bytes()) for path in paths]


@pytest.mark.slow
def test_whatever_a_file_holds_there_is_an_answer(tmp_path, seeds):
    decoder = Decoder()
    seen = {}
    worst = [0.0, 0.0]

    @settings(
        max_examples=EXAMPLES,
        deadline=None,
        derandomize=True,
        database=None,
        suppress_health_check=list(HealthCheck),
    )
    @given(st.sampled_from(range(len(seeds))), CHANGES, st.sampled_from([1, 4, 12]))
    def check(which, changes, count):
        suffix, content = seeds[which]
        path = tmp_path / f"a{suffix}"
        path.write_bytes(changed(content, changes))
        word, seconds, megabytes = decoder.ask(path, count)
        seen[word] = seen.get(word, 0) + 1
        worst[:] = max(worst[0], seconds), max(worst[1], megabytes)
        # None of the moment: nothing but the content is wrong.
        assert word == "ok" or word in {*STATUSES} - {*OF_THE_MOMENT}
        assert seconds < SECONDS
        assert megabytes < MEGABYTES

    try:
        check()
    finally:
        decoder.close()
        print(f"{seen}; at most {worst[0]:.2f} s, {worst[1]:.0f} MiB")
    assert sum(seen.values()) >= EXAMPLES
    # The changes neither spare all files nor break all.
    assert seen["ok"] > EXAMPLES // 20
    assert sum(seen.values()) - seen["ok"] > EXAMPLES // 4


def listing(content, box, flags, counts):
    """An MP4 whose list of samples of one size states more of them than there are."""
    content = bytearray(content)
    place = content.index(box) + 4
    content[place : place + 4] = flags
    for offset, number in counts.items():
        content[place + offset : place + offset + 4] = number.to_bytes(4, "big")
    return bytes(content)


@pytest.mark.parametrize("samples", [30_000_000, 100_000_000, 170_000_000])
@pytest.mark.parametrize("name", ["a.mp4", "b.mp4"])
def test_a_table_of_any_stated_length(tmp_path, name, samples):
    path = write(tmp_path / name, **{**SMALL, **SEEDS[name]})
    if name == "a.mp4":
        # One size for all, hence no list of sizes.
        content = listing(path.read_bytes(), b"stsz", bytes(4), {4: 1, 8: samples})
    else:
        content = listing(path.read_bytes(), b"trun", bytes(4), {4: samples})
    path.write_bytes(content)
    decoder = Decoder()
    try:
        word, seconds, megabytes = decoder.ask(path, 4)
    finally:
        decoder.close()
    assert word in STATUSES
    assert megabytes < MEGABYTES
    assert seconds < SECONDS


def test_what_ffmpeg_takes_for_a_refused_file(tmp_path, seeds):
    """It says "not permitted" of damaged headers of ASF."""
    content = dict(seeds)[".wmv"]
    path = tmp_path / "a.wmv"
    words = set()
    for place in range(0, len(content), 7):
        path.write_bytes(content[:place] + b"\xff" * 4 + content[place:])
        words.add(answer(path, 4))
    assert "unreadable" in words
    assert words <= {"ok", *STATUSES} - {*OF_THE_MOMENT}


def test_the_decoder_says_what_is_not_foreseen(tmp_path, monkeypatch):
    path = film(tmp_path / "a.mp4")
    assert answer(path, 4) == "ok"
    broken = functools.partial(int, "x")
    monkeypatch.setitem(globals(), "decode_uniform", lambda *a, **k: broken())
    assert answer(path, 4).startswith("ValueError")
