"""Files here and in object stores: complete or not there, and errors in one line."""

import pytest
from object_stores import google  # noqa: F401

from data_pipelines.console.errors import UserError
from data_pipelines.files.store_errors import Denied, using
from data_pipelines.files.stores import Store, fetched

# As pyarrow words them: of S3, and of Google's.
TEXTS = {
    "there is no such bucket": "AWS Error NO_SUCH_BUCKET during ListObjectsV2",
    "does not accept the credentials": "AWS Error INVALID_ACCESS_KEY_ID during PutOb",
    "there are no credentials": "UNAVAILABLE: Could not create a OAuth2 access token",
    "denies access": "AWS Error ACCESS_DENIED during CreateMultipartUpload",
    "does not answer": "AWS Error NETWORK_CONNECTION: curlCode: 7",
    "cannot be used": "something else",
}


@pytest.mark.parametrize("says", TEXTS)
def test_errors_by_their_words(says):
    words = pytest.raises(UserError, match=f"^s3://a/b:? .*{says}")
    with words as caught, using("s3://a/b"):
        raise OSError(TEXTS[says])
    assert isinstance(caught.value, Denied) == (says == "denies access")
    # Of a local path the same words mean nothing.
    with pytest.raises(OSError, match=r"AWS|UNAV|some"), using("/a/b"):
        raise OSError(TEXTS[says])


@pytest.fixture(params=["here", "google"])
def place(request, tmp_path, google):
    return tmp_path / "a" if request.param == "here" else "gs://bucket/a"


def test_files_and_their_parts(place):
    store = Store(place)
    assert store.files() == {}
    store.write("b/c", b"0123456789")
    store.write("d", b"")
    assert {name: x.size for name, x in store.files().items()} == {"b/c": 10, "d": 0}
    assert store.files("b").keys() == {"b/c"}
    assert store.read("b/c") == b"0123456789"
    assert store.read("b/c", 3, 4) == b"3456"
    assert store.read("b/c", 8, 9) == b"89"
    assert (store.size("b/c"), store.size("b/e")) == (10, None)
    with pytest.raises(FileNotFoundError):
        store.read("b/e")
    store.remove("b")
    store.remove("none")
    assert store.files().keys() == {"d"}


def test_a_block_that_fails_leaves_nothing(place):
    store = Store(place)

    def fail():
        with store.writing("b") as file:
            file.write(b"half")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    assert store.files() == {}


def test_bytes_beyond_the_end_are_told(place, tmp_path):
    store = Store(place)
    store.write("b", b"0123")
    with (tmp_path / "x").open("wb") as file:
        store.copy_range("b", 1, 3, file)
        with pytest.raises(UserError, match="b is cut off"):
            store.copy_range("b", 1, 4, file)
    assert (tmp_path / "x").read_bytes() == b"123123"


def test_no_object_leads_out_of_the_folder(google):
    google.objects |= {"a/../../x.csv": b"", "a/b/y.csv": b"1", "a/z.mp4": b""}
    with fetched("gs://bucket/a") as copy:
        assert [x.name for x in copy.rglob("*.*")] == ["y.csv"]
    # A message names the place, not the copy.
    words = pytest.raises(UserError, match=r"^gs://bucket/a/b/y.csv is bad$")
    with words, fetched("gs://bucket/a") as copy:
        raise UserError(f"{copy}/b/y.csv is bad")


def test_texts_with_keys_that_no_folder_has(google):
    google.objects |= {"a/x.csv": b"1", "a/b//y.csv": b"2", "a/\0.csv": b"3"}
    google.objects |= {"a/./v.csv": b"4", "a//u.csv": b"", f"a/{'n' * 256}.csv": b"5"}
    with fetched("gs://bucket/a") as copy:
        assert [x.name for x in copy.rglob("*.*")] == ["x.csv"]
    google.objects["a/x.csv/w.csv"] = b"6"
    words = pytest.raises(UserError, match=r"^gs://bucket/a/x.csv/w.csv cannot be copi")
    with words, fetched("gs://bucket/a"):
        pass


def test_an_address_that_is_malformed(monkeypatch):
    monkeypatch.setenv("STORAGE_EMULATOR_HOST", "foo://bar baz")
    with pytest.raises(UserError, match="the server's address is malformed; check"):
        Store("gs://bucket/x").files()
