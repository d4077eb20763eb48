"""What a training run survives: kills, SIGTERMs, lost processes, damaged files.

    python -m benchmarks.faults [--kills=100] [--terms=20] [--pairs=10] [--damages=200]
        [--work=DIR] [--json=FILE]

The run under test is `vop` on a few films of the demo. An unbroken run gives the
fingerprint of the state after every step; whatever a broken run restores, and what it
ends with, is held against that. Children are forked from one process that has imported
everything, so that a start costs little; they are ordinary processes otherwise, and end
by real signals. Each part has a control: the same with what it tests taken out.
"""

# ruff: noqa: E402 - libraries read these variables when they are imported

import argparse
import contextlib
import hashlib
import json
import os
import random
import shutil
import signal
import socket
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any
from unittest import mock

os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")

from data_pipelines.terminal import quiet_libraries, say, set_main_process

quiet_libraries()

import jax
import tensorboard.summary.writer.event_file_writer  # noqa: F401 - before the fork
from transformers import CLIPConfig  # noqa: F401 - likewise

from configs.vop import get_config
from data_pipelines.demo import world
from data_pipelines.prepare import prepare
from vop_jax import checkpoint, processes, train
from vop_jax.checkpoint import Checkpoints, fingerprints
from vop_jax.config import check_config
from vop_jax.exit_status import PREEMPTED, PROCESS_LOST
from vop_jax.run import Run
from vop_jax.run_folder import RunFolder, read_metrics

SPLITS = {"train": 48, "validation": 16, "test": 16}
SAVE_EVERY, HEARTBEAT = 3, 30
# A child that takes longer hangs.
LIMIT = 300


def run_values(data: Path, **changes: Any) -> dict[str, Any]:
    """The configuration under test: 24 steps of 12 videos."""
    values = get_config("method=vop").to_dict()
    values |= {"data_dir": str(data), "epochs": 6, "batch_size": 12, "log_every": 1}
    # Fewer seconds to trace, which is most of what a start costs here.
    values["compute"] |= {"scan": True}
    return values | {"save_every": SAVE_EVERY, "group_size": 4} | changes


def digest(state: Any) -> str:
    """One fingerprint of a whole state."""
    arrays = {k: processes.whole(x) for k, x in checkpoint._arrays(state).items()}
    found = fingerprints(arrays)
    return hashlib.sha256(json.dumps(found).encode()).hexdigest()


def train_in_child(values: dict[str, Any], folder: Path, record: Path) -> None:
    """Trains, and writes what was restored, saved and reached to a file."""
    config = check_config(values)
    save, restore = Checkpoints.save, Checkpoints.restore

    def note(event: str, step: int, state: Any) -> None:
        fingerprint = digest(state)
        if processes.is_main():
            line = {"event": event, "step": step, "digest": fingerprint}
            with record.open("a") as file:
                file.write(json.dumps(line) + "\n")

    def noted_save(self: Checkpoints, step: int, state: Any, *rest: Any) -> None:
        note("saved", step, state)
        save(self, step, state, *rest)

    def noted_restore(self: Checkpoints, like: Any) -> Any:
        found = restore(self, like)
        if found is not None:
            note("restored", found.step, found.state)
        return found

    with (
        mock.patch.object(Checkpoints, "save", noted_save),
        mock.patch.object(Checkpoints, "restore", noted_restore),
    ):
        run = Run(config, RunFolder(folder))
        train.train(run)
    if processes.is_main():
        with record.open("a") as file:
            file.write(json.dumps({"event": "finished"}) + "\n")


def fork(function: Callable[[], object], log: Path) -> int:
    """Runs a function in a child with a log of its own; returns its process id."""
    sys.stdout.flush()
    sys.stderr.flush()
    child = os.fork()
    if child:
        return child
    status = 1
    try:
        file = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(file, 1)
        os.dup2(file, 2)
        function()
        status = 0
    except SystemExit as error:
        status = error.code if isinstance(error.code, int) else 1
    except BaseException:
        import traceback

        traceback.print_exc()
    finally:
        os._exit(status)


def wait(child: int, seconds: float) -> int | None:
    """A child's status (minus the signal, if one ended it); None while it runs."""
    end = time.monotonic() + seconds
    while True:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status)
        if time.monotonic() >= end:
            return None
        time.sleep(0.02)


def finish(child: int, seconds: float = LIMIT) -> int:
    """Waits for a child's end; one that hangs is killed, which counts as -9."""
    status = wait(child, seconds)
    if status is None:
        os.kill(child, signal.SIGKILL)
        status = wait(child, LIMIT)
    assert status is not None
    return status


def events(record: Path) -> list[dict[str, Any]]:
    """What a record holds; a line that was cut off is left out."""
    found = []
    for line in record.read_text().splitlines() if record.exists() else ():
        with contextlib.suppress(json.JSONDecodeError):
            found.append(json.loads(line))
    return found


class Campaign:
    """The unbroken run, and the broken ones that are held against it.

    Args:
        work: folder for everything.
        seed: of the moments and the damages.
    """

    def __init__(self, work: Path, seed: int):
        self.work, self.data = work, work / "data"
        self.log = work / "log"
        self.random = random.Random(seed)
        work.mkdir(parents=True, exist_ok=True)
        os.environ["JAX_COMPILATION_CACHE_DIR"] = str(work / "xla")
        jax.config.update("jax_compilation_cache_dir", str(work / "xla"))
        with mock.patch.object(world, "SPLITS", SPLITS):
            assert finish(fork(self._prepare, self.log), 1800) == 0
        self.values = run_values(self.data)

    def _prepare(self) -> None:
        prepare("demo", self.data)

    def start(self, name: str, **changes: Any) -> int:
        """Starts (or goes on with) the run of that name."""
        folder, record = self.work / name, self.work / f"{name}.jsonl"
        values = self.values | changes
        return fork(lambda: train_in_child(values, folder, record), self.log)

    def start_pair(self, name: str, **changes: Any) -> list[int]:
        """The same by two processes."""
        folder, record = self.work / name, self.work / f"{name}.jsonl"
        values = self.values | changes
        with socket.socket() as free:
            free.bind(("localhost", 0))
            address = f"localhost:{free.getsockname()[1]}"

        def run(index: int) -> None:
            processes.start(address, 2, index, heartbeat_seconds=HEARTBEAT)
            set_main_process(processes.is_main())
            processes.end_together(
                lambda: train_in_child(values, folder, record), HEARTBEAT
            )
            jax.distributed.shutdown()

        return [fork(lambda i=i: run(i), self.work / f"log{i}") for i in range(2)]

    def reference(self, name: str, start: Callable[..., Any]) -> dict[int, str]:
        """The state's fingerprint after every step of an unbroken run."""
        children = start(name, save_every=1)
        for child in children if isinstance(children, list) else [children]:
            assert finish(child, 1800) == 0, f"the unbroken run failed, see {self.log}"
        found = events(self.work / f"{name}.jsonl")
        return {x["step"]: x["digest"] for x in found if x["event"] == "saved"}

    def judge(self, name: str, wanted: dict[int, str]) -> dict[str, int]:
        """How what a run restored and ended with compares with the unbroken one."""
        found = events(self.work / f"{name}.jsonl")
        restored = [x for x in found if x["event"] == "restored"]
        saved = [x for x in found if x["event"] == "saved"]
        last = max(wanted)
        finals = [x["digest"] for x in saved if x["step"] == last]
        return {
            "restores": len(restored),
            "bad_restores": sum(x["digest"] != wanted[x["step"]] for x in restored),
            "finished": int(any(x["event"] == "finished" for x in found)),
            "bad_ends": sum(x != wanted[last] for x in finals),
        }

    def steps_done(self, name: str) -> int:
        """The last step that the metrics of a run know of."""
        done = read_metrics(RunFolder(self.work / name))
        return max((x["step"] for x in done if "loss" in x), default=0)

    def lost(self, name: str) -> int:
        """Steps that were done and are not in a checkpoint."""
        folder = Path(RunFolder(self.work / name).checkpoints)
        kept = [int(x.name) for x in folder.glob("*") if x.name.isdigit()]
        return self.steps_done(name) - max(kept, default=0)

    def interrupt(self, child: int, name: str, number: int) -> bool:
        """Sends a signal at a random moment; False where the child ended before.

        One in five falls into the start, the others between two and some more steps
        later, so that moments are spread over the run however fast the machine is.
        """
        start, begun = self.steps_done(name), time.monotonic()
        early = self.random.random() < 0.2
        after = self.random.uniform(0, 3) if early else self.random.uniform(0, 0.3)
        further = 0 if early else self.random.randrange(1, 9)
        while self.steps_done(name) < start + further:
            if wait(child, 0.02) is not None:
                return False
            assert time.monotonic() - begun < LIMIT, "the child hangs"
        if wait(child, after) is not None:
            return False
        os.kill(child, number)
        return True


def kills(campaign: Campaign, wanted: dict[int, str], count: int) -> dict[str, Any]:
    """SIGKILL at random moments until there were that many; then to the end."""
    begun = time.monotonic()
    done, lost, report = 0, [], Totals()
    while done < count:
        name = f"kill{report.runs}"
        while done < count:
            child = campaign.start(name)
            if not campaign.interrupt(child, name, signal.SIGKILL):
                break
            assert finish(child) == -signal.SIGKILL
            done += 1
            lost.append(campaign.lost(name))
        # What is left of the run, unhindered.
        assert finish(campaign.start(name)) == 0
        report.add(campaign.judge(name, wanted))
        say(
            f"{done} of {count} kills, {json.dumps(report.counts)}, most steps lost "
            f"{max(lost)}, {time.monotonic() - begun:.0f} s"
        )
    return {
        "kills": done,
        **report.counts,
        "save_every": SAVE_EVERY,
        "most_steps_lost": max(lost),
        "mean_steps_lost": round(sum(lost) / len(lost), 2),
        "seconds": round(time.monotonic() - begun),
    }


def terms(campaign: Campaign, wanted: dict[int, str], count: int) -> dict[str, Any]:
    """SIGTERM at random moments; a run that noticed it has lost no step."""
    begun = time.monotonic()
    done, noticed, lost, report = 0, 0, [], Totals()
    while done < count:
        name = f"term{report.runs}"
        while done < count:
            child = campaign.start(name)
            if not campaign.interrupt(child, name, signal.SIGTERM):
                break
            status = finish(child)
            if status == 0:
                break
            # Before the first step there is nothing to save, and nobody listens.
            assert status in (PREEMPTED, -signal.SIGTERM), status
            done += 1
            noticed += status == PREEMPTED
            if status == PREEMPTED:
                lost.append(campaign.lost(name))
        assert finish(campaign.start(name)) == 0
        report.add(campaign.judge(name, wanted))
        say(f"{done} of {count} SIGTERMs, {json.dumps(report.counts)}")
    return {
        "terms": done,
        "saved_and_143": noticed,
        "before_the_first_step": done - noticed,
        **report.counts,
        "most_steps_lost": max(lost, default=0),
        "seconds": round(time.monotonic() - begun),
    }


def pairs(campaign: Campaign, count: int) -> dict[str, Any]:
    """One of two processes is killed; the other ends by itself, and both go on."""
    begun = time.monotonic()
    wanted = campaign.reference("pair_reference", campaign.start_pair)
    done, lost, waits, statuses, report = 0, [], [], [], Totals()
    while done < count:
        name = f"pair{report.runs}"
        while done < count:
            children = campaign.start_pair(name)
            victim = campaign.random.randrange(2)
            if not campaign.interrupt(children[victim], name, signal.SIGKILL):
                finish(children[1 - victim])
                break
            killed = time.monotonic()
            finish(children[victim])
            statuses.append(finish(children[1 - victim]))
            waits.append(time.monotonic() - killed)
            done += 1
            lost.append(campaign.lost(name))
        assert [finish(x) for x in campaign.start_pair(name)] == [0, 0]
        report.add(campaign.judge(name, wanted))
        say(f"{done} of {count} processes killed, {json.dumps(report.counts)}")
    return {
        "kills": done,
        **report.counts,
        "survivors_with_status_75": statuses.count(PROCESS_LOST),
        "other_statuses": sorted({x for x in statuses if x != PROCESS_LOST}),
        "longest_wait_seconds": round(max(waits), 1),
        "heartbeat_seconds": HEARTBEAT,
        "save_every": SAVE_EVERY,
        "most_steps_lost": max(lost),
        "seconds": round(time.monotonic() - begun),
    }


class Totals:
    """Sums of what runs were judged to be."""

    def __init__(self):
        self.runs = 0
        self.counts: dict[str, int] = {}

    def add(self, judged: dict[str, int]) -> None:
        """Adds a run."""
        self.runs += 1
        for name, value in judged.items():
            self.counts[name] = self.counts.get(name, 0) + value


DAMAGES = ("flip", "truncate", "delete", "zero", "append")


def damage(file: Path, kind: str, source: random.Random) -> None:
    """Damages a file in one of the ways that disks and people do."""
    content = bytearray(file.read_bytes())
    if kind == "delete":
        file.unlink()
        return
    if kind == "flip" and content:
        content[source.randrange(len(content))] ^= 1 << source.randrange(8)
    elif kind == "truncate":
        del content[source.randrange(len(content) or 1) :]
    elif kind == "zero" and content:
        start = source.randrange(len(content))
        content[start : start + 512] = bytes(len(content[start : start + 512]))
    elif kind == "append":
        content += bytes(source.randrange(1, 64))
    file.write_bytes(content)


def damages(campaign: Campaign, wanted: dict[int, str], count: int) -> dict[str, Any]:
    """Damages one file of the newest checkpoint and restores, again and again."""
    output = campaign.work / "damages.json"
    seed = campaign.random.randrange(2**32)
    begun = time.monotonic()

    def run() -> None:
        counts = damage_and_restore(campaign, wanted, count, seed)
        output.write_text(json.dumps(counts))

    assert finish(fork(run, campaign.log), 3600) == 0, f"see {campaign.log}"
    return json.loads(output.read_text()) | {
        "seconds": round(time.monotonic() - begun),
    }


def damage_and_restore(
    campaign: Campaign, wanted: dict[int, str], count: int, seed: int
) -> dict[str, Any]:
    """What came of each damage; in a child, since it wants a device."""
    like = _like(campaign)
    whole = campaign.work / "reference" / "checkpoints"
    place = campaign.work / "damaged_run" / "checkpoints"
    source = random.Random(seed)
    found = dict.fromkeys(("newest", "fell_back", "refused", "silently_wrong"), 0)
    kinds: dict[str, int] = {}
    for _ in range(count):
        shutil.rmtree(place.parent, ignore_errors=True)
        shutil.copytree(whole, place)
        steps = sorted(int(x.name) for x in place.iterdir() if x.name.isdigit())
        files = sorted(x for x in (place / str(steps[-1])).rglob("*") if x.is_file())
        kind = source.choice(DAMAGES)
        # Half of them by their size, which is where the arrays are.
        sizes = [x.stat().st_size for x in files] if source.random() < 0.5 else None
        file = source.choices(files, sizes)[0]
        damage(file, kind, source)
        outcome = _outcome(place, like, wanted, steps[-1])
        found[outcome] += 1
        kinds[f"{kind}: {outcome}"] = kinds.get(f"{kind}: {outcome}", 0) + 1
        if outcome == "silently_wrong":
            print(kind, file)
    return {"damages": count, **found, "by_kind": dict(sorted(kinds.items()))}


def _like(campaign: Campaign) -> Any:
    """What is restored: the abstract state of the run under test."""
    found: list[Any] = []

    class Enough(Exception):
        pass

    def keep(self: Checkpoints, like: Any) -> None:
        found.append(like)
        raise Enough

    with (
        mock.patch.object(Checkpoints, "restore", keep),
        contextlib.suppress(Enough),
    ):
        run = Run(check_config(campaign.values), RunFolder(campaign.work / "abstract"))
        train.train(run)
    return found[0]


def _outcome(place: Path, like: Any, wanted: dict[int, str], newest: int) -> str:
    from data_pipelines.errors import UserError

    checkpoints = Checkpoints(place, report=lambda line: None)
    try:
        restored = checkpoints.restore(like)
    except UserError:
        return "refused"
    finally:
        with contextlib.suppress(Exception):
            checkpoints.close()
    if restored is None or digest(restored.state) != wanted.get(restored.step):
        return "silently_wrong"
    return "newest" if restored.step == newest else "fell_back"


@contextlib.contextmanager
def unverified() -> Iterator[None]:
    """Control: fingerprints and seals that say nothing."""
    with (
        mock.patch.object(
            checkpoint, "fingerprints", lambda arrays: dict.fromkeys(arrays, "")
        ),
        mock.patch.object(checkpoint, "_open_seal", _unsealed),
    ):
        yield


def _unsealed(text: str) -> dict[str, Any]:
    notes = json.loads(text.partition("\n")[2])
    return notes | {"sha256": dict.fromkeys(notes["sha256"], "")}


def controls(campaign: Campaign, wanted: dict[int, str], count: int) -> dict[str, Any]:
    """What the parts would find if what they test were not there."""
    found: dict[str, Any] = {}
    # A state that lacks its moments restores well and ends otherwise.
    _kill_once(campaign, "control_moments")
    restore = Checkpoints.restore

    def forgetful(self: Checkpoints, like: Any) -> Any:
        got = restore(self, like)
        if got is None:
            return None
        fresh = jax.tree.map(lambda x: x * 0, got.state.optimizer)
        return got._replace(state=got.state.replace(optimizer=fresh))

    with mock.patch.object(Checkpoints, "restore", forgetful):
        assert finish(campaign.start("control_moments")) == 0
    judged = campaign.judge("control_moments", wanted)
    found["without_the_moments"] = {x: judged[x] for x in ("bad_restores", "bad_ends")}
    # Without the fingerprints, damage comes back as if it were whole.
    with unverified():
        found["without_fingerprints"] = damages(campaign, wanted, count)
    return found


def _kill_once(campaign: Campaign, name: str) -> None:
    """Kills a run after its first checkpoint."""
    child = campaign.start(name)
    kept = campaign.work / name / "checkpoints"
    while not any(x.name.isdigit() for x in kept.glob("*")):
        assert wait(child, 0.02) is None
    os.kill(child, signal.SIGKILL)
    finish(child)


def main(arguments: Sequence[str] | None = None) -> dict[str, Any]:
    """Runs the campaign and prints what came of it as JSON."""
    parser = argparse.ArgumentParser("benchmarks.faults", description=__doc__)
    for name, value in (("kills", 100), ("terms", 20), ("pairs", 10), ("damages", 200)):
        parser.add_argument(f"--{name}", type=int, default=value)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--work", type=Path, default=Path("runs/faults"))
    parser.add_argument("--json", type=Path, help="file for the figures")
    given = parser.parse_args(arguments)
    campaign = Campaign(given.work.absolute(), given.seed)
    wanted = campaign.reference("reference", campaign.start)
    results: dict[str, Any] = {"steps": max(wanted), "jax": jax.__version__}

    def part(name: str, figures: dict[str, Any]) -> None:
        results[name] = figures
        say(f"{name}: {json.dumps(figures)}")
        if given.json:
            given.json.write_text(json.dumps(results, indent=1))

    if given.kills:
        part("sigkill", kills(campaign, wanted, given.kills))
    if given.terms:
        part("sigterm", terms(campaign, wanted, given.terms))
    if given.damages:
        part("damage", damages(campaign, wanted, given.damages))
        part("controls", controls(campaign, wanted, -(-given.damages // 4)))
    if given.pairs:
        part("two_processes", pairs(campaign, given.pairs))
    print(json.dumps(results, indent=1))
    return results


if __name__ == "__main__":
    main()
