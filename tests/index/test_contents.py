"""What is recognised of files, and what is kept of frames."""

import io
import os

import numpy as np
import pytest
from PIL import Image

from data_pipelines.console.errors import UserError
from vop_jax.index import pictures
from vop_jax.index.contents import content_of, with_contents
from vop_jax.index.listing import File
from vop_jax.index.pictures import read_picture
from vop_jax.index.update import THUMBNAIL, thumbnail


@pytest.fixture
def large(tmp_path):
    """A file whose samples are few of its bytes."""
    path = tmp_path / "large.mp4"
    path.write_bytes(np.random.default_rng(0).bytes(3_000_000))
    return path


@pytest.mark.parametrize("place", [0, 65_535, 3_000_000 * 3 // 7 + 5, -65_536, -1])
def test_a_change_at_either_end_or_in_between_is_another_content(large, place):
    before = content_of(large, 3_000_000)
    data = bytearray(large.read_bytes())
    data[place] ^= 1
    other = large.with_name("other.mp4")
    other.write_bytes(data)
    assert content_of(other, 3_000_000) != before
    other.write_bytes(large.read_bytes())
    assert content_of(other, 3_000_000) == before
    assert content_of(other, 2_999_999) != before


def test_a_file_that_cannot_be_read_has_no_content(tmp_path, large):
    os.mkfifo(tmp_path / "pipe.mp4")
    (tmp_path / "folder.mp4").mkdir()
    names = ("pipe.mp4", "folder.mp4", "none.mp4", "large.mp4")
    files = [File(name, 3_000_000, 1) for name in names]
    found = dict(with_contents(tmp_path, files))
    assert [bool(found[file]) for file in files] == [False, False, False, True]


@pytest.mark.parametrize("side", [48, 224])
def test_a_thumbnail_is_small(side):
    frame = np.random.default_rng(0).integers(0, 256, (side, side, 3), np.uint8)
    with Image.open(io.BytesIO(thumbnail(frame))) as image:
        assert image.format == "JPEG"
        assert image.size == (min(side, THUMBNAIL),) * 2


def test_a_picture_is_read_upright(tmp_path):
    image = Image.new("RGBA", (40, 20), (10, 20, 30, 255))
    exif = image.getexif()
    exif[0x0112] = 6
    image.convert("RGB").save(tmp_path / "a.jpg", exif=exif)
    assert read_picture(tmp_path / "a.jpg").shape == (40, 20, 3)
    image.save(tmp_path / "a.png")
    found = read_picture(tmp_path / "a.png")
    assert (found.shape, found.dtype) == ((20, 40, 3), np.uint8)
    np.testing.assert_array_equal(found[0, 0], [10, 20, 30])


def test_other_pictures_are_refused(tmp_path, monkeypatch):
    path = tmp_path / "a.png"
    Image.new("RGB", (40, 20)).save(path)
    whole = path.read_bytes()
    path.write_bytes(whole[:60])
    with pytest.raises(UserError, match=r"a.png is not a picture that can be read"):
        read_picture(path)
    path.write_text("text")
    with pytest.raises(UserError, match=r"can be read \(no known format\)$"):
        read_picture(path)
    path.write_bytes(whole)
    monkeypatch.setattr(pictures, "_MOST_PIXELS", 799)
    with pytest.raises(UserError, match=r"40 x 20 pixels; use a picture of at most"):
        read_picture(path)
    path.unlink()
    os.mkfifo(path)
    with pytest.raises(UserError, match=r"a.png cannot be read"):
        read_picture(path)
