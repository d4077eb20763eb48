"""What is played of a stretch that is longer than a preview."""

import pytest
from moment_index import Moment
from search_servers import ask, serving, small_index

from vop_jax.serving.requests import Stretch


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    folder = tmp_path_factory.mktemp("videos")
    with serving(small_index(folder), tmp_path_factory.mktemp("cache")) as server:
        yield server


def page(server, path):
    return ask(server, path)[2].decode()


@pytest.mark.parametrize(
    ("start", "end", "best", "shown"),
    [
        (10, 90, 60, (45, 75)),
        # At both ends it is still as long.
        (10, 90, 12, (10, 40)),
        (10, 90, 88, (60, 90)),
        (10, 40, 38, (10, 40)),
        (10, 30, 28, (10, 30)),
        (10, 90, None, (10, 40)),
        # Times that are not in the stretch.
        (10, 90, 500, (60, 90)),
        (10, 90, 0, (10, 40)),
        (10, 20, 500, (10, 20)),
    ],
)
def test_of_a_long_stretch_the_best_is_shown(start, end, best, shown):
    found = Stretch("a.mp4", start, end, best).around_best()
    assert found == ("a.mp4", *shown, None)
    assert found.around_best() == found


def test_a_long_stretch_is_played_from_around_its_best(server, monkeypatch):
    index = server.service.index
    index.moments.append(Moment("sub/red.mp4", 0, 100, (255, 0, 0), best=60))
    try:
        text = page(server, "/?q=red&per_video=9")
        assert "video=sub%2Fred.mp4&amp;start=0&amp;end=100&amp;best=60" in text
        # More of its kind is more of its best moment.
        assert "like=sub%2Fred.mp4%4060" in text
    finally:
        index.moments.pop()
    text = page(server, "/play?video=sub/red.mp4&start=0&end=100&best=60")
    assert 'src="/file?video=sub%2Fred.mp4#t=45.000,100.000"' in text
    assert "0:45 \N{EN DASH} 1:40" in text
    text = page(server, "/play?video=green.avi&start=0&end=40&best=0.5")
    assert 'src="/preview?video=green.avi&amp;start=0&amp;end=30"' in text
    asked, clip = [], server.service.previews.clip

    def spy(path, start, end):
        asked.append((start, end))
        return clip(path, start, end)

    monkeypatch.setattr(server.service.previews, "clip", spy)
    ask(server, "/preview?video=green.avi&start=0&end=40&best=1")
    ask(server, "/preview?video=green.avi&start=0&end=40&best=39")
    assert asked == [(0, 30), (10, 40)]
    assert ask(server, "/preview?video=green.avi&best=nan")[0] == 422
