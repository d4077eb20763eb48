"""What `convert` leaves behind: a whole folder or nothing, and one writer at a time."""

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from tiers import slow_except

from data_pipelines.console.errors import UserError
from vop_jax.runtime.new_folder import new_folder
from vop_jax.weights import tensors as weight_files
from vop_jax.weights.clip_export import convert
from vop_jax.weights.locate import BACKBONE

ROOT = Path(__file__).parents[2]
# `convert` on a disk without room for a megabyte: what is written beyond gives EFBIG.
SMALL = """
import resource, signal, sys
from vop_jax import convert
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, ({limit}, -1))
convert.main()
"""
TARGETS = ("huggingface", "openai", "modelscope")


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    """The demo's CLIP with as many heads as OpenAI's code would take."""
    folder = tmp_path_factory.mktemp("source") / "clip"
    shutil.copytree(BACKBONE, folder)
    config = json.loads((folder / "config.json").read_text())
    for tower in ("vision_config", "text_config"):
        config[tower]["num_attention_heads"] = config[tower]["hidden_size"] // 64
        config[tower]["intermediate_size"] = 4 * config[tower]["hidden_size"]
    (folder / "config.json").write_text(json.dumps(config))
    return folder


CONVERT = "from vop_jax import convert; convert.main()"


def converting(output, code=CONVERT, to=TARGETS[0], source=BACKBONE):
    flags = [f"--input={source}", f"--output={output}", f"--to={to}"]
    return subprocess.Popen(
        [sys.executable, "-c", code, *flags],
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.mark.parametrize("to", slow_except(TARGETS, TARGETS[0]))
def test_a_full_disk_is_one_line_and_leaves_nothing(clip, tmp_path, to):
    output = tmp_path / "new" / "clip"
    full = converting(output, SMALL.format(limit=100_000), to, clip)
    _, said = full.communicate(timeout=120)
    assert full.returncode == 2, said
    errors = [x for x in said.splitlines() if not x.startswith(("converting", "warn"))]
    assert errors == [
        f"error: no room is left for {output}; make some and run the same command "
        "again, nothing of it was kept"
    ]
    assert not list(tmp_path.iterdir())


def test_control_with_room_it_is_there(tmp_path):
    done = converting(tmp_path / "clip", SMALL.format(limit=10_000_000))
    done.communicate(timeout=120)
    assert done.returncode == 0
    assert [x.name for x in tmp_path.iterdir()] == ["clip"]


@pytest.mark.campaign
@pytest.mark.parametrize("to", TARGETS)
@pytest.mark.parametrize("size", ["4k", "64k", "300k", "700k"])
def test_a_disk_that_is_full(clip, tmp_path, to, size):
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", disk]
    if subprocess.run(mount, check=False, capture_output=True).returncode:
        pytest.skip("mounting is not permitted")
    try:
        with pytest.raises(UserError, match=r"no room|No space left"):
            convert(clip, disk / "clip", to)
        assert not list(disk.iterdir())
    finally:
        subprocess.run(["umount", "-l", disk], check=True)


@pytest.fixture
def slow(monkeypatch):
    """A conversion that stops before its first tensor until it is let go on."""
    reached, let = threading.Event(), threading.Event()
    write = weight_files.write_safetensors

    def waiting(*given, **named):
        reached.set()
        assert let.wait(60)
        write(*given, **named)

    monkeypatch.setattr("vop_jax.weights.clip_export.write_safetensors", waiting)
    return reached, let


def test_two_conversions_to_one_output(tmp_path, slow, monkeypatch):
    reached, let = slow
    output = tmp_path / "clip"
    first = threading.Thread(target=convert, args=(BACKBONE, output, "huggingface"))
    first.start()
    try:
        assert reached.wait(60)
        (tmp_path / "link").symlink_to(tmp_path)
        second = converting(tmp_path / "link" / "clip")
        _, said = second.communicate(timeout=120)
        assert second.returncode == 2
        assert said.count("\n") == 1
        assert f"{output} is being written by process {os.getpid()} on " in said
    finally:
        let.set()
        first.join()
    assert sorted(x.name for x in tmp_path.iterdir()) == ["clip", "link"]
    with pytest.raises(UserError, match="exists already"):
        convert(BACKBONE, output, "huggingface")


STOP = """
import sys
from vop_jax import convert
from vop_jax.weights import clip_export
import time
def stopped(path, *_, **__):
    path.write_bytes(b"half")
    print("in", flush=True)
    time.sleep(60)
clip_export.write_safetensors = stopped
convert.main()
"""


@pytest.mark.parametrize("kind", [signal.SIGKILL, signal.SIGINT])
def test_what_was_killed_leaves_the_output_free(tmp_path, kind):
    output = tmp_path / "clip"
    process = converting(output, STOP)
    assert "in\n" in iter(process.stdout.readline, "")
    assert [x.name for x in tmp_path.iterdir() if x.is_dir()] == [".clip.partial"]
    process.send_signal(kind)
    _, said = process.communicate(timeout=60)
    if kind == signal.SIGINT:
        assert process.returncode == 130
        assert said.splitlines()[-1] == "interrupted"
        assert "Traceback" not in said
        assert not list(tmp_path.iterdir())
    started = time.monotonic()
    convert(BACKBONE, output, "huggingface")
    assert time.monotonic() - started < 30
    assert [x.name for x in tmp_path.iterdir()] == ["clip"]


def test_other_errors_pass_and_leave_nothing(tmp_path):
    with pytest.raises(ZeroDivisionError), new_folder(tmp_path / "a") as folder:
        _ = 1 / (folder / "file").write_text("")
    with (
        pytest.raises(UserError, match=r"a was not written \(.*not there"),
        new_folder(tmp_path / "a") as folder,
    ):
        (folder / "not there").read_text()
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", ["/", "file/below", "n" * 300])
def test_what_cannot_be_an_output(tmp_path, name):
    (tmp_path / "file").write_text("precious")
    with pytest.raises(UserError) as error, new_folder(tmp_path / name):
        pass
    assert "\n" not in str(error.value)
    assert (tmp_path / "file").read_text() == "precious"
