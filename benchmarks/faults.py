"""Fault campaign: kills, SIGTERMs, lost processes and damaged checkpoints of a run.

    python -m benchmarks.faults [--kills=100] [--terms=20] [--pairs=10] [--damages=200]
        [--work=DIR] [--json=FILE]

The run under test is `vop` on a few films of the demo. An uninterrupted run gives the
fingerprint of the state after every step; the states that an interrupted run restores
and ends with are compared with it. Children are forked from one process that has
imported everything, so that they start fast; they end by real signals. Each part has a
control, in which the mechanism under test is disabled.
"""

import argparse
import contextlib
import json
import os
import random
import shutil
import signal
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any
from unittest import mock

import jax

from benchmarks.broken_runs import (
    HEARTBEAT,
    SAVE_EVERY,
    Campaign,
    digest,
    finish,
    fork,
    wait,
)
from data_pipelines.console.terminal import say
from vop_jax.runtime.exit_status import PREEMPTED, PROCESS_LOST
from vop_jax.runtime.run_folder import RunFolder
from vop_jax.training import checkpoint
from vop_jax.training import loop as train
from vop_jax.training.checkpoint import Checkpoints
from vop_jax.training.config import check_config
from vop_jax.training.run import assemble


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
            status = finish(child)
            if status == 0:
                # It finished just before the signal.
                break
            assert status == -signal.SIGKILL, status
            done += 1
            lost.append(campaign.lost(name))
        # The rest of the run, without interruption.
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
    """SIGTERM at random moments; a run that handles it loses no step."""
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
            # Before the first step there is nothing to save, and no handler.
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
    """One of two processes is killed; the other ends by itself, and both resume."""
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
            ended = finish(children[victim])
            survivor = finish(children[1 - victim])
            if ended == 0:
                break
            statuses.append(survivor)
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
    """Sums of `Campaign.judge` over runs."""

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
    """Damages a file in one of the ways `DAMAGES`."""
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
    outcomes = ("newest", "fell_back", "refused", "silently_wrong")
    found: dict[str, int] = dict.fromkeys(outcomes, 0)
    kinds: dict[str, int] = {}
    for _ in range(count):
        shutil.rmtree(place.parent, ignore_errors=True)
        shutil.copytree(whole, place)
        steps = sorted(int(x.name) for x in place.iterdir() if x.name.isdigit())
        files = sorted(x for x in (place / str(steps[-1])).rglob("*") if x.is_file())
        kind = source.choice(DAMAGES)
        # Half of the files are chosen by size, to hit the arrays.
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
    """The abstract state of the run under test, as a template to restore."""
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
        run = assemble(
            check_config(campaign.values), RunFolder(campaign.work / "abstract")
        )
        train.train(run)
    return found[0]


def _outcome(place: Path, like: Any, wanted: dict[int, str], newest: int) -> str:
    from data_pipelines.console.errors import UserError

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
    """Control: fingerprints and seals are not verified."""
    with (
        mock.patch.object(
            checkpoint, "fingerprints", lambda arrays: dict.fromkeys(arrays, "")
        ),
        mock.patch.object(checkpoint, "open_seal", _unsealed),
    ):
        yield


def _unsealed(text: str) -> dict[str, Any]:
    notes = json.loads(text.partition("\n")[2])
    return notes | {"sha256": dict.fromkeys(notes["sha256"], "")}


def controls(campaign: Campaign, wanted: dict[int, str], count: int) -> dict[str, Any]:
    """What the parts find if the mechanism they test is disabled."""
    found: dict[str, Any] = {}
    # A state restored without its optimizer moments ends with other parameters.
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
    """Runs the campaign and prints the results as JSON."""
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
