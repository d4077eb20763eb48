"""From similarities to hits: the ranking, stretches, copies, filters, weak matches."""

import numpy as np
import pytest
from colour_model import ColourModel, write_colour

from data_pipelines.console.errors import UserError
from data_pipelines.decoding.moments import Moment, VideoEnd
from vop_jax.index import approximate, view
from vop_jax.index.answers import BeyondTheEndError, Filters, Query
from vop_jax.index.background import SENTENCES, Background, measure
from vop_jax.index.meta import Meta
from vop_jax.index.ranking import stretches
from vop_jax.index.store import Store
from vop_jax.index.tables import MomentRow, VideoRow, new_id
from vop_jax.index.video_index import VideoIndex


class Table:
    """Embeds texts as rows of a table, and pictures as one vector."""

    fingerprint, num_frames, dtype = "t", 1, "float32"

    def __init__(self, rows):
        self.rows = rows

    def encode_texts(self, texts):
        return self.rows[: len(texts)]


def store_films(path, films, size, duration=8.0, **changes):
    """An index of films: name -> vectors of its moments."""
    meta = Meta("t", 1, "float32", size, 8.0)
    store = Store(path)
    store.begin(size)
    store.record("identity", meta.identity)
    store.record("place", {"checkpoint": "", "videos": str(path.parent)})
    for name, vectors in films.items():
        made = new_id()
        rows = [
            MomentRow(made, i, 8.0 * i, 8.0 * i + 8, vector.astype(np.float16), b"")
            for i, vector in enumerate(vectors)
        ]
        about = (name, 1, 1, "c" + name, made, len(rows), duration * len(rows), 4, 4)
        video = VideoRow(new_id(), *about, "ok", "", meta.digest)
        store.append(rows, [video._replace(**changes.get(name, {}))])
    return store


@pytest.mark.slow
def test_the_ranking_is_that_of_a_plain_sort(tmp_path):
    rng = np.random.default_rng(0)
    # Not normalised: the length of a video's embedding counts.
    table = rng.normal(size=(500, 16)).astype(np.float16)
    queries = rng.normal(size=(20, 16)).astype(np.float32)
    names = [f"v{i:03}.mp4" for i in range(len(table))]
    films = {name: row[None] for name, row in zip(names, table, strict=True)}
    store_films(tmp_path / "index", films, 16).close()
    with VideoIndex.open(tmp_path / "index") as index:
        found = index.search(Table(queries), ["x"] * 20, top=50)
    similarity = queries @ table.astype(np.float32).T
    for row, answer in zip(similarity, found.answers, strict=True):
        best = np.argsort(-row, kind="stable")[:50]
        assert [hit.video for hit in answer.hits] == [names[i] for i in best]
        assert [hit.rank for hit in answer.hits] == list(range(1, 51))
        np.testing.assert_allclose(
            [hit.similarity for hit in answer.hits], row[best], rtol=1e-5, atol=1e-5
        )
    assert (found.videos, found.moments) == (500, 500)
    assert set(found.seconds) == {"read", "embed", "search"}


@pytest.mark.parametrize(
    ("similarities", "numbers", "alike", "most", "expected"),
    [
        ([0.1, 0.9, 0.2], [0, 1, 2], 0.1, 1, [(1, 1, 1)]),
        ([0.85, 0.9, 0.81], [0, 1, 2], 0.1, 1, [(0, 2, 1)]),
        # A neighbour of a neighbour is compared with the best, not with the neighbour.
        ([0.9, 0.82, 0.74], [0, 1, 2], 0.1, 1, [(0, 1, 0)]),
        ([0.9, 0.1, 0.88], [0, 1, 2], 0.1, 1, [(0, 0, 0)]),
        ([0.9, 0.1, 0.88], [0, 1, 2], 0.1, 3, [(0, 0, 0), (2, 2, 2), (1, 1, 1)]),
        # A moment in between is damaged.
        ([0.9, 0.89], [0, 2], 0.1, 2, [(0, 0, 0), (1, 1, 1)]),
        ([0.9, -np.inf, 0.9], [0, 1, 2], 0.1, 3, [(0, 0, 0), (2, 2, 2)]),
        ([], [], 0.1, 1, []),
    ],
)
def test_neighbours_that_answer_alike_are_one_stretch(
    similarities, numbers, alike, most, expected
):
    values = np.array(similarities, np.float32)
    found = stretches(
        np.arange(len(values)), values, np.array(numbers, np.int64), alike, most
    )
    assert found == expected


def one(*values):
    return np.array(values, np.float32)


def test_a_stretch_spans_its_moments(tmp_path):
    film = np.stack([one(0, 1), one(1, 0.1), one(0.95, 0.3), one(0, 1), one(0.9, 0.4)])
    store = store_films(tmp_path / "index", {"a.mp4": film, "b.mp4": film[:1]}, 2)
    store.record("background", Background(0.5, 0.1, 0.7, 120).record())
    with VideoIndex.open(tmp_path / "index") as index:
        (answer,) = index.search(Table(one(1, 0)[None]), ["x"], per_video=2).answers
    assert [(x.video, x.start, x.end) for x in answer.hits] == [
        *(("a.mp4", 8.0, 24.0), ("a.mp4", 32.0, 40.0), ("b.mp4", 0.0, 8.0))
    ]
    assert answer.hits[0].moment.endswith(".1")
    assert [x.weak for x in answer.hits] == [False, False, True]
    np.testing.assert_allclose(
        [x.stands_out for x in answer.hits], [5, 4, -5], atol=0.1
    )


def test_films_that_are_alike_all_along_are_copies(tmp_path):
    film = np.stack([one(1, 0, 0), one(0, 1, 0)])
    again = np.stack([one(1, 0.03, 0), one(0, 1, 0.03)])
    other = np.stack([one(1, 0, 0), one(0, 0, 1)])
    films = {
        "a.mp4": film,
        "b.mp4": again,
        "c.mp4": other,
        "d.mp4": film[:1],
        "long.mp4": film,
    }
    changes = {"long.mp4": {"duration": 99.0}}
    store_films(tmp_path / "index", films, 3, **changes)
    (tmp_path / "b.mp4").touch()
    with VideoIndex.open(tmp_path / "index") as index:
        (answer,) = index.search(Table(one(1, 0, 0)[None]), ["x"]).answers
    copies = {hit.video: hit.copies for hit in answer.hits}
    # The file that exists is the one that is shown.
    assert copies == {
        "b.mp4": ("a.mp4",),
        "c.mp4": (),
        "d.mp4": (),
        "long.mp4": (),
    }


FILTERED = {
    "a/one.mp4": {"duration": 10.0, "mtime_ns": 100 * 10**9},
    "a/b/two.mp4": {"duration": 20.0, "mtime_ns": 200 * 10**9},
    "ab/three.mp4": {"duration": 30.0, "mtime_ns": 300 * 10**9},
}


@pytest.mark.parametrize(
    ("filters", "expected"),
    [
        (Filters(), {"one", "two", "three"}),
        (Filters(folder="a"), {"one", "two"}),
        (Filters(folder="a/"), {"one", "two"}),
        (Filters(folder="/a/b"), {"two"}),
        (Filters(folder="a/one.mp4"), set()),
        (Filters(min_seconds=20), {"two", "three"}),
        (Filters(max_seconds=20), {"one", "two"}),
        (Filters(since=200, until=200), {"two"}),
        (Filters(folder="a", since=150), {"two"}),
        (Filters(min_seconds=99), set()),
    ],
)
@pytest.mark.parametrize("on_disk", [False, True])
def test_filters(tmp_path, monkeypatch, filters, expected, on_disk):
    if on_disk:
        approximate_from(monkeypatch, 1)
    rng = np.random.default_rng(0)
    films = {name: rng.normal(size=(1, 4)) for name in FILTERED}
    store = store_films(tmp_path / "index", films, 4, **FILTERED)
    if on_disk:
        # LanceDB does not build a graph of less.
        store_films(tmp_path / "index", {"z.mp4": rng.normal(size=(300, 4))}, 4)
        assert approximate.refresh(store)
    with VideoIndex.open(tmp_path / "index") as index:
        assert (index._source.view().vectors is None) == on_disk
        (answer,) = index.search(
            Table(rng.normal(size=(1, 4)).astype(np.float32)), ["x"], filters=filters
        ).answers
    names = {hit.video for hit in answer.hits} - {"z.mp4"}
    assert {name.split("/")[-1][:-4] for name in names} == expected


def approximate_from(monkeypatch, count):
    monkeypatch.setattr(view, "EXACT_BELOW", count)
    monkeypatch.setattr(approximate, "EXACT_BELOW", count)


@pytest.mark.slow
def test_the_approximate_index_finds_what_the_exact_search_finds(tmp_path, monkeypatch):
    rng = np.random.default_rng(0)
    films = {f"{i:03}.mp4": rng.normal(size=(8, 32)) for i in range(150)}
    store = store_films(tmp_path / "index", films, 32)
    queries = rng.normal(size=(5, 32)).astype(np.float32)

    def search(top=5, **options):
        with VideoIndex.open(tmp_path / "index") as index:
            asked = [*["x"] * 4, Query(like=("007.mp4", 20.0))]
            found = index.search(Table(queries), asked, top=top, **options)
            return found, index._source.view()

    exact, held = search()
    assert held.vectors is not None
    approximate_from(monkeypatch, 1000)
    assert approximate.refresh(store)
    assert not approximate.refresh(store)
    found, held = search()
    assert held.vectors is None
    assert approximate.recall(store, held) >= 0.98
    for one_way, other in zip(found.answers, exact.answers, strict=True):
        assert [x[:4] for x in one_way.hits] == [x[:4] for x in other.hits]
        np.testing.assert_allclose(
            [x.similarity for x in one_way.hits],
            [x.similarity for x in other.hits],
            rtol=1e-4,
        )
    # What was added since is found too, and what is gone is not.
    store_films(tmp_path / "index", {"new.mp4": 9 * queries[:1]}, 32)
    (row,) = [x for x in store.videos()[0] if x.path == exact.answers[1].hits[0].video]
    store.append([], [row._replace(id=new_id(), status="removed")])
    found, _ = search()
    assert found.answers[0].hits[0].video == "new.mp4"
    assert row.path not in {hit.video for hit in found.answers[1].hits}
    # Damage is found when a moment is answered.
    best = found.answers[0].hits[0]
    store.moments().update(
        where=f"moment_set = '{best.moment.partition('.')[0]}'", values={"checksum": 7}
    )
    found, _ = search()
    assert best.video not in {hit.video for hit in found.answers[0].hits}
    assert f"{best.video} 0.0-8.0 s: damaged" in found.refused


def test_many_moments_without_an_approximate_index_are_searched_one_by_one(
    tmp_path, monkeypatch
):
    rng = np.random.default_rng(0)
    films = {f"{i}.mp4": rng.normal(size=(2, 8)) for i in range(30)}
    store_films(tmp_path / "index", films, 8)
    queries = rng.normal(size=(2, 8)).astype(np.float32)
    answers = []
    for count in (10**6, 10):
        approximate_from(monkeypatch, count)
        with VideoIndex.open(tmp_path / "index") as index:
            assert index._source.view().vectors is not None
            answers.append(index.search(Table(queries), ["x", "x"]).answers)
    assert [[x.video for x in y.hits] for y in answers[0]] == [
        [x.video for x in y.hits] for y in answers[1]
    ]


def test_the_background_is_what_unrelated_sentences_are_answered():
    assert len(set(SENTENCES)) == len(SENTENCES) >= 100
    texts = np.eye(4, dtype=np.float32)
    moments = np.diag([0.1, 0.2, 0.3, 0.8]).astype(np.float32)
    found = measure(texts, [moments[:2], moments[2:], np.full((1, 4), np.nan)])
    assert found.count == 4
    assert found.mean == pytest.approx(0.25)
    assert found.std == pytest.approx(1.4826 * 0.1, rel=0.01)
    assert found.is_weak(0.5)
    assert not found.is_weak(0.81)
    assert found.stands_out(0.25) == pytest.approx(0, abs=1e-6)
    assert measure(texts, []) is None


class Scenes(ColourModel):
    """A film of three moments: red, green, blue."""

    def read_moments(self, paths, seconds, ahead, cut):
        for place, path in enumerate(paths):
            frames = self.read_video(path)
            for i in range(3):
                shown = np.zeros_like(frames)
                shown[..., i] = 200 + 2 * place
                yield place, Moment(i * seconds, (i + 1) * seconds, shown)
            yield place, VideoEnd("", "", (), 3 * seconds, 32, 32, 3)


def test_a_moment_and_a_picture_are_queries(folder, videos):
    folder.update(Scenes())
    model = Scenes()
    with folder.open() as index:
        picture = np.zeros((40, 60, 3), np.uint8)
        picture[..., 1] = 200
        queries = [
            "red",
            Query(image=picture),
            Query(like=("red0.mp4", 17.0)),
            Query(like=("red0.mp4", 24.0)),
        ]
        red, green, blue, last = index.search(model, queries, top=3).answers
        assert [x.query for x in (green, blue)] == ["a picture", "red0.mp4@17"]
        assert red.hits[0][2:4] == (0.0, 8.0)
        assert green.hits[0][2:4] == (8.0, 16.0)
        assert (green.hits[0].stands_out, green.hits[0].weak) == (None, False)
        # The moment itself is not among its like.
        assert [x[:4] for x in blue.hits] == [x[:4] for x in last.hits]
        for query, says in (
            (Query(like=("none.mp4", 1.0)), "none.mp4 is not in the index"),
            (
                Query(like=("red0.mp4", 99.5)),
                r"^red0\.mp4 is 24 seconds long; 99\.5 is behind its end$",
            ),
            (Query(like=("red0.mp4", 24.001)), "red0.mp4 is 24 seconds long"),
            (Query(), "a query is empty"),
            (Query(text="  "), "a query is empty"),
            (Query(text="x", image=picture), "one of a text, a picture and a moment"),
        ):
            with pytest.raises(UserError, match=says):
                index.search(model, [query])
        # The same for a stretch that is to be played.
        index.check_time("red0.mp4", 24.0)
        with pytest.raises(BeyondTheEndError, match="is 24 seconds long"):
            index.check_time("red0.mp4", 24.001)
        for options in ({"top": 0}, {"per_video": 0}):
            with pytest.raises(UserError, match="must be at least 1"):
                index.search(model, ["red"], **options)
        with pytest.raises(UserError, match="there is no query"):
            index.search(model, [])


def test_a_video_without_moments_has_none_like_it(folder, videos):
    (videos / "empty.mp4").touch()
    write_colour(videos / "x.mp4", "red")
    folder.update()
    with (
        folder.open() as index,
        pytest.raises(UserError, match=r"empty.mp4 has no moments in the index"),
    ):
        index.search(ColourModel(), [Query(like=("empty.mp4", 0.0))])
