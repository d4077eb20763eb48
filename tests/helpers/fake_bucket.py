"""Stands in for a bucket: gs:// is a folder, seen through the path layer alone."""

import io
import os
from pathlib import Path

import pytest
from etils.epath import backend, gpath


class _Text(io.StringIO):
    """A file that appears when it is complete, as an object in a bucket does."""

    def __init__(self, path):
        super().__init__(newline="")
        self._path = Path(path)

    def close(self):
        if not self.closed:
            aside = Path(f"{self._path}.{os.getpid()}")
            aside.write_text(self.getvalue())
            aside.replace(self._path)
        super().close()


def install(root, set_attribute=setattr) -> Path:
    """Makes gs://NAME the folder `root`/NAME; returns that of gs://bucket."""

    class Folder(backend._OsPathBackend):
        def __getattribute__(self, name):
            found = super().__getattribute__(name)
            if name.startswith("_") or not callable(found):
                return found
            if name == "open":
                plain = found

                def found(path, mode="r"):
                    return _Text(path) if mode == "w" else plain(path, mode)

            def call(*given, **named):
                return found(
                    *(
                        x.replace("gs://", f"{root}/") if isinstance(x, str) else x
                        for x in given
                    ),
                    **named,
                )

            return call

    set_attribute(gpath._GPath, "_backend", property(lambda self: Folder()))
    set_attribute(gpath, "_get_backend", lambda *_: Folder())
    return Path(root) / "bucket"


@pytest.fixture
def bucket(tmp_path, monkeypatch):
    return install(tmp_path, monkeypatch.setattr)
