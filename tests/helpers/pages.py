"""The pages of the documentation: their commands, their Python, and a stage."""

import re
import subprocess
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted(ROOT.glob("docs/**/*.md"))]
PAGES += [ROOT / f"{x}.md" for x in ("CONTRIBUTING", "CHANGELOG", "SECURITY")]
PAGES += sorted(ROOT.glob("data_pipelines/datasets/*/README.md"))
SHELL = ("", "sh", "bash", "shell", "console")
# Programs that lines start and this project is not; they do nothing here.
OTHERS = (
    "pip",
    "tensorboard",
    "git",
    "cd",
    "pre-commit",
    "docker",
    "kubectl",
    "sbatch",
)

LOG = 'printf \'%s\\0\' "$0" "$#" "${REQUIREMENTS:-}" "$@" >> "$LOG"\n'
STUBS = {
    "log": f"#!/bin/bash\n{LOG}",
    "gcloud": (
        "#!/bin/bash\n"
        'for x; do case $x in --command=*) exec /bin/bash -c "${x#*=}";; esac; done\n'
        "exit 9\n"
    ),
    "srun": '#!/bin/bash\nwhile [[ $1 == -* ]]; do shift; done\nexec "$@"\n',
    "nothing": "#!/bin/bash\n",
}


def blocks(text):
    """The shell blocks of a page."""
    for found in re.finditer(r"^```(\w*)\n(.*?)^```", text, re.M | re.S):
        if found[1] in SHELL:
            yield found[2]


def spans(text):
    """What stands between backticks outside of blocks, in one line each."""
    text = re.sub(r"^```.*?^```", "", text, flags=re.M | re.S)
    return [" ".join(x.split()) for x in re.findall(r"`([^`]+)`", text)]


def make_stage(tmp_path):
    """A folder in which whatever a page starts writes down its arguments."""
    programs = tmp_path / "programs"
    names = {"gcloud": "gcloud", "srun": "srun", "python": "log", "python3": "log"}
    names |= {f"here/{x}": "log" for x in ("run.sh", "vop_jax/run.sh")}
    names |= {"here/.venv/bin/python": "log", "here/.venv/bin/pip": "nothing"}
    names |= dict.fromkeys(OTHERS, "nothing")
    for name, stub in names.items():
        path = programs / name if "/" not in name else tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(STUBS[stub])
        path.chmod(0o755)
    return tmp_path


def started(stage, block):
    """The command lines that a block starts, as (program, REQUIREMENTS, arguments)."""
    log = stage / "log"
    log.write_bytes(b"")
    done = subprocess.run(
        ["/bin/bash", "-e", "-c", block],
        cwd=stage / "here",
        env={"PATH": str(stage / "programs"), "LOG": str(log)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, f"{block}\n{done.stderr}"
    left = log.read_bytes().decode().split("\0")[:-1]
    while left:
        program, count, requirements, *left = left
        yield program, requirements, left[: int(count)]
        left = left[int(count) :]


def without_placeholders(block):
    """A block with optional parts and alternatives taken as they stand."""
    return re.sub(r" \[(--[^]]*)\]", r" \1", block)


def python_blocks(text):
    """The Python blocks of a page."""
    return re.findall(r"^```python\n(.*?)^```", text, re.M | re.S)
