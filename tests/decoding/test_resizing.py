"""Frames become square as the image processors of other projects make them."""

import numpy as np
import pytest
from PIL import Image
from written_films import write

from data_pipelines.decoding.frames import decode_uniform
from data_pipelines.decoding.images import resize_frame
from data_pipelines.decoding.moments import Moment, decode_moments
from data_pipelines.decoding.resizing import CLIP_RESIZING, FILTERS, RESIZES, Resizing
from data_pipelines.decoding.video_job import DecodeJob, MomentsJob
from data_pipelines.decoding.workers import shared_workers

SIZE = 32
EVERY = [Resizing(resize, filter) for resize in RESIZES for filter in FILTERS]
# Height and width: single pixels, 10:1, the size itself, enlarged, reduced a lot.
SHAPES = [
    *((1, 1), (1, 9), (9, 1), (2, 2), (32, 32), (32, 31), (31, 32), (33, 33)),
    *((30, 300), (300, 30), (64, 640), (1000, 1200), (17, 23), (240, 320), (63, 65)),
]


def images():
    """50 images: noise of each shape, grey ones, ramps."""
    rng = np.random.default_rng(0)
    for shape in [*SHAPES, *map(tuple, rng.integers(2, 200, (23, 2)))]:
        yield rng.integers(0, 256, (*shape, 3), np.uint8)
    for shape in SHAPES[-6:]:
        yield np.full((*shape, 3), 128, np.uint8)
        ramp = np.linspace(0, 255, shape[1]).astype(np.uint8)
        yield np.ascontiguousarray(np.broadcast_to(ramp[None, :, None], (*shape, 3)))


def processor(resizing):
    """What transformers does, before the pixel statistics."""
    transformers = pytest.importorskip("transformers")
    square = {"height": SIZE, "width": SIZE}
    options = {
        "resample": getattr(Image.Resampling, resizing.filter.upper()),
        "do_normalize": False,
        "do_rescale": False,
    }
    made = {
        "crop": lambda: transformers.CLIPImageProcessorPil(
            size={"shortest_edge": SIZE}, crop_size=square, **options
        ),
        "squash": lambda: transformers.SiglipImageProcessorPil(size=square, **options),
    }[resizing.resize]()

    def process(frame):
        values = made(images=Image.fromarray(frame), return_tensors="np")
        return np.moveaxis(values["pixel_values"][0], 0, -1)

    return process


@pytest.mark.parametrize("resizing", EVERY, ids=str)
def test_every_byte_is_that_of_transformers(resizing):
    """But for the centre of an odd remainder.

    transformers rounds half a pixel down, and torchvision, whose rule OpenAI's and
    open_clip's preprocessing follow, to the even number.
    """
    theirs, shifted, count = processor(resizing), 0, 0
    for frame in images():
        count += 1
        ours, expected = resize_frame(frame, SIZE, resizing), theirs(frame)
        if np.array_equal(ours, expected):
            continue
        shifted += 1
        height, width = frame.shape[:2]
        scaled = RESIZES[resizing.resize].scaled(width, height, SIZE)
        assert any((side - SIZE) % 4 == 3 for side in scaled)
        whole = Image.fromarray(frame).resize(
            scaled, getattr(Image.Resampling, resizing.filter.upper())
        )
        left, top = ((side - SIZE) // 2 for side in scaled)
        box = (left, top, left + SIZE, top + SIZE)
        np.testing.assert_array_equal(expected, np.asarray(whole.crop(box)))
    assert count == 50
    assert shifted < count / 4
    assert not shifted or resizing.resize == "crop"


def test_the_four_ways_differ():
    frame = next(x for x in images() if x.shape == (240, 320, 3))
    made = [resize_frame(frame, SIZE, how) for how in EVERY]
    for i, one in enumerate(made):
        assert one.shape == (SIZE, SIZE, 3)
        assert not any(np.array_equal(one, other) for other in made[:i])
    np.testing.assert_array_equal(resize_frame(frame, SIZE), made[0])


@pytest.mark.parametrize("resizing", EVERY, ids=str)
def test_every_way_to_a_frame_resizes_it_alike(resizing, tmp_path):
    path = write(tmp_path / "film.mp4")
    full = decode_uniform(path, 3).frames
    wanted = np.stack([resize_frame(x, 16, resizing) for x in full])
    found = decode_uniform(path, 3, image_size=16, resizing=resizing).frames
    np.testing.assert_array_equal(found, wanted)
    moment, _ = decode_moments(path, 3, 99.0, 16, resizing=resizing)
    assert isinstance(moment, Moment)
    np.testing.assert_array_equal(moment.frames, wanted)
    workers = shared_workers()
    job = DecodeJob(str(path), "", 3, 16, resizing=resizing)
    np.testing.assert_array_equal(workers.decode_one(job)[1], wanted)
    jobs = [MomentsJob(str(path), 3, 16, 99.0, resizing=resizing)]
    (_, _, sent), _ = workers.decode_moments(jobs, 4)
    assert isinstance(sent, Moment)
    np.testing.assert_array_equal(sent.frames, wanted)


def test_only_other_frames_have_a_name_of_their_own():
    assert CLIP_RESIZING.suffix == ""
    assert len({how.suffix for how in EVERY}) == len({how.words for how in EVERY}) == 4
    assert Resizing("squash", "bilinear").suffix == "-squash-bilinear"
