"""A server of the search page in a thread, and requests to it."""

import contextlib
import http.client
import threading

from colour_model import ColourModel
from moment_index import Moment, MomentIndex, colour_tokenizer
from written_films import write

from vop_jax.search import as_json
from vop_jax.serving.previews import Previews
from vop_jax.serving.server import SearchServer

HOSTILE = '<img src=x onerror=alert(1)>".mp4'


def small_index(folder):
    """An index of a few films, one of which has gone."""
    (folder / "sub").mkdir()
    write(folder / "sub" / "red.mp4", count=100, size=(96, 128))
    write(folder / "green.avi", "mpeg4", count=100, size=(96, 128))
    (folder / HOSTILE).write_text("no video")
    return MomentIndex(
        folder,
        [
            Moment("sub/red.mp4", 0, 3, (220, 20, 20)),
            Moment("green.avi", 1, 3, (20, 220, 20), copies=("copy.avi",)),
            Moment("gone.mp4", 0, 5, (20, 20, 220)),
            Moment(HOSTILE, 0, 5, (90, 90, 90), duration=2.0),
        ],
    )


@contextlib.contextmanager
def serving(index, cache, host="127.0.0.1", model=None, as_json=as_json, **named):
    """A server that answers while the block runs."""
    if model is None:
        model = ColourModel()
        model.tokenizer = colour_tokenizer()
    with SearchServer(
        (host, 0), index, model, as_json, previews=Previews(cache), **named
    ) as server:
        thread = threading.Thread(target=server.serve)
        thread.start()
        try:
            yield server
        finally:
            server.stop()
            thread.join(20)
            assert not thread.is_alive()


def ask(server, path, method="GET", host="127.0.0.1", body=None, **headers):
    """Status, headers and content of an answer; `_` in a header's name is `-`."""
    connection = http.client.HTTPConnection(host, server.port, timeout=30)
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    connection.request(method, path, body=body, headers=named)
    answer = connection.getresponse()
    content = answer.read()
    connection.close()
    return answer.status, answer.headers, content


def together(count, function):
    answers = []
    threads = [
        threading.Thread(target=lambda: answers.append(function()))
        for _ in range(count)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(answers) == count
    return answers


def page(server, path):
    """Status and text of an address that answers with a page."""
    status, headers, content = ask(server, path)
    assert headers["Content-Type"] == "text/html; charset=utf-8"
    return status, content.decode()
