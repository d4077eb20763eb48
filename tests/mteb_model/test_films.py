"""Videos of a batch of mteb: paths, stored files and decoders."""

import numpy as np
import pytest
from written_films import decode_all, write

from data_pipelines.console.errors import UserError
from data_pipelines.decoding.resizing import CLIP_RESIZING
from vop_jax.mteb_model.films import Film, FilmCollator

SIZE = 48


def every_second(rows):
    """A rule in the place of mteb's: every second frame of each row's decoder."""
    for row in rows:
        film = row["video"]
        chosen = range(0, film.metadata.num_frames, 2)
        row["video"] = film.get_frames_at(list(chosen)).data
    return {key: [row[key] for row in rows] for key in rows[0]}


@pytest.fixture(scope="module")
def film(tmp_path_factory):
    folder = tmp_path_factory.mktemp("films")
    return write(folder / "film.mp4", count=6, size=(SIZE, SIZE))


def test_paths_and_stored_files_give_the_frames_of_the_file(film):
    stored = {"bytes": film.read_bytes(), "path": "elsewhere/film.mp4"}
    named = {"bytes": None, "path": str(film)}
    opened = Film(film, SIZE, CLIP_RESIZING)
    videos = [str(film), stored, named, opened]
    rows = [{"id": str(i), "video": x} for i, x in enumerate(videos)]
    batch = FilmCollator(every_second, SIZE, CLIP_RESIZING)(rows)
    assert batch["id"] == ["0", "1", "2", "3"]
    expected = np.moveaxis(np.stack(decode_all(film)[::2]), -1, 1)
    for video in batch["video"]:
        np.testing.assert_array_equal(video, expected)
    # The rows are those of a data set, which may be read again.
    assert [x["video"] for x in rows] == videos


def test_a_video_that_cannot_be_read_is_one_line(film, tmp_path):
    broken = tmp_path / "broken.mp4"
    broken.write_bytes(film.read_bytes()[:100])
    collate = FilmCollator(every_second, SIZE, CLIP_RESIZING)
    with pytest.raises(UserError, match=r"^video 7: .*broken\.mp4[^\n]*$"):
        collate([{"id": "7", "video": str(broken)}])
    with pytest.raises(UserError, match=r"type datasets\.Video$"):
        collate([{"id": "7", "video": 3}])
