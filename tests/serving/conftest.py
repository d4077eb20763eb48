"""A server of the search page that the tests of a file share."""

import pytest
from search_servers import serving, small_index


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    folder = tmp_path_factory.mktemp("videos")
    cache = tmp_path_factory.mktemp("cache")
    with serving(small_index(folder), cache) as server:
        yield server
