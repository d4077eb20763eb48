"""Previews of stretches of videos: made on demand, kept in a bounded folder."""

import contextlib
import hashlib
import json
import os
import secrets
import subprocess
import sys
import threading
from collections import OrderedDict
from pathlib import Path
from typing import Any, NamedTuple

from data_pipelines.console.errors import UserError
from data_pipelines.decoding.worker_process import import_paths
from vop_jax.serving.preview_job import PreviewJob

# Longest stretch of a preview, seconds.
LONGEST = 30.0
# Seconds until the process that makes one is killed.
SECONDS = 20.0
# Bytes of all previews together.
MOST_BYTES = 1 << 30
# Part of a preview's name: a preview that was made in another way is another file.
_FORMAT = "1"
# Files whose kind is remembered.
_MOST_KNOWN = 4096
_CODE = (
    "import sys; sys.path[:] = sys.argv[1:]\n"
    "from vop_jax.serving.preview_job import main; main()"
)


class PreviewError(Exception):
    """A stretch that cannot be shown: one line, with the reason."""


class Clip(NamedTuple):
    """What a browser plays.

    Attributes:
        path: the file: a preview, or the video itself.
        media_type: of the file.
        is_preview: whether it is a preview, which begins with the stretch.
    """

    path: Path
    media_type: str
    is_preview: bool


def cache_folder() -> Path:
    """Where previews are kept: a folder of the user's own cache."""
    home = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(home).expanduser() / "vop_jax" / "previews"


class Previews:
    """Makes previews and keeps them; any number of threads may ask.

    Args:
        folder: where they are kept.
        most_bytes: of all files in it; the longest unused are removed.
        seconds: time limit of one.

    Raises:
        UserError: the folder cannot be written.
    """

    def __init__(
        self,
        folder: Path | None = None,
        most_bytes: int = MOST_BYTES,
        seconds: float = SECONDS,
    ):
        self.folder = cache_folder() if folder is None else folder
        self._most_bytes, self._seconds = most_bytes, seconds
        self._lock = threading.Lock()
        self._running: set[subprocess.Popen] = set()
        self._closed = False
        # Media types of videos that browsers play, by what identifies the file.
        self._direct: OrderedDict[tuple, str] = OrderedDict()
        try:
            # Private: the videos may be, too.
            self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            if not os.access(self.folder, os.W_OK):
                raise PermissionError(13, "Permission denied")
        except OSError as error:
            raise UserError(
                f"previews cannot be kept in {self.folder} ({error.strerror}); set "
                "XDG_CACHE_HOME to a folder that can be written"
            ) from None
        # What a killed server left.
        for partial in self.folder.glob("*.partial"):
            partial.unlink(missing_ok=True)

    def clip(self, video: Path, start: float, end: float) -> Clip:
        """The file to play a stretch from; made now if need be.

        Args:
            video: the file.
            start: seconds.
            end: seconds; at most `LONGEST` from the start are shown.

        Raises:
            PreviewError: the video cannot be shown.
        """
        end = min(end, start + LONGEST)
        try:
            about = video.stat()
        except (OSError, ValueError) as error:
            reason = getattr(error, "strerror", None) or error
            raise PreviewError(f"the video cannot be read ({reason})") from None
        file = (os.fsencode(video), about.st_size, about.st_mtime_ns)
        with self._lock:
            direct = self._direct.get(file)
        if direct:
            return Clip(video, direct, False)
        stretch = (f"{start:.3f}", f"{end:.3f}", _FORMAT)
        name = hashlib.sha256(repr((*file, *stretch)).encode()).hexdigest()[:40]
        path = self.folder / f"{name}.mp4"
        try:
            # Used now, so removed late.
            os.utime(path)
        except OSError:
            direct = self._make(video, path, start, end)
        if direct:
            with self._lock:
                self._direct[file] = direct
                if len(self._direct) > _MOST_KNOWN:
                    self._direct.popitem(last=False)
            return Clip(video, direct, False)
        return Clip(path, "video/mp4", True)

    def _make(self, video: Path, path: Path, start: float, end: float) -> str:
        """Makes a preview; returns a media type instead if browsers play the video."""
        partial = path.with_suffix(f".{secrets.token_hex(4)}.partial")
        try:
            job = PreviewJob(str(video), str(partial), start, end)
            outcome = self._run(job)
            if "error" in outcome:
                raise PreviewError(outcome["error"])
            if "direct" in outcome:
                return outcome["direct"]
            partial.replace(path)
        except OSError as error:
            reason = error.strerror or error
            raise PreviewError(f"the preview cannot be made ({reason})") from None
        finally:
            partial.unlink(missing_ok=True)
        self._make_room(path)
        return ""

    def _run(self, job: PreviewJob) -> dict[str, Any]:
        """The outcome of a job, done by a process of its own."""
        with self._lock:
            if self._closed:
                raise PreviewError("the server is ending")
            process = subprocess.Popen(
                [sys.executable, "-c", _CODE, *import_paths()],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                # FFmpeg prints there what the outcome says anyway.
                stderr=subprocess.DEVNULL,
                # Ctrl-C in the terminal must reach the main process alone.
                start_new_session=True,
            )
            self._running.add(process)
        try:
            said, _ = process.communicate(
                json.dumps(job).encode() + b"\n", self._seconds
            )
            return json.loads(said)
        except subprocess.TimeoutExpired:
            reason = f"takes more than {self._seconds:g} seconds to decode"
            return {"error": f"{job.video} {reason}"}
        # The process died, or a decoder corrupted its memory.
        except ValueError:
            return {"error": f"{job.video} made its decoder crash"}
        finally:
            process.kill()
            process.communicate()
            with self._lock:
                self._running.discard(process)

    def _make_room(self, new: Path) -> None:
        """Removes the longest unused previews, until the others fit; never `new`."""
        with self._lock:
            files = []
            with os.scandir(self.folder) as entries:
                for entry in entries:
                    with contextlib.suppress(OSError):
                        about = entry.stat(follow_symlinks=False)
                        files.append((about.st_mtime_ns, about.st_size, entry.path))
            total = sum(size for _, size, _ in files)
            for _, size, path in sorted(files):
                if total <= self._most_bytes:
                    break
                # One that is being written belongs to another thread.
                if path == str(new) or path.endswith(".partial"):
                    continue
                with contextlib.suppress(OSError):
                    os.unlink(path)
                total -= size

    def close(self) -> None:
        """Ends the processes that still run; no preview is made from now on."""
        with self._lock:
            self._closed = True
            running = list(self._running)
        for process in running:
            process.kill()
