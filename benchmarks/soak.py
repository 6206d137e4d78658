# SPDX-License-Identifier: Apache-2.0
"""One long run of the bundled trainer, killed again and again at random, beside the same run left in peace.

    python -m benchmarks.soak [--kills 100] [--seed 1] [--segments N] [--folder DIR]

First the run is done undisturbed.  Then it is done anew, and every few seconds SIGKILL hits one of

* ``supervisor``: ``gaff run`` itself;
* ``rank``: a process that trains; ``launcher``: its parent; ``guardian``: the process between these and the supervisor;
* ``machine``: all of them at once, as when the machine dies (though here what was not flushed to disk survives).

About half of the kills come at any time, the others as soon as the run is seen to do something short: saving, surgery,
deleting old tags.  Where the supervisor is gone the same command is given again, as a user would.  After the last kill
the run is let finish, and must be as if nothing had happened: the same tags, equal bit for bit in every tensor and
number; the same losses; no process, no temporary file, no half deletion, no half surgery, no lock left.

Exit code 0 when all of that held.  Needs ``gaff[bundled]`` and a machine on which nobody else writes to /dev/shm.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from gaff.report.metrics.gather import load_metrics
from gaff.supervisor.child import RUN_ID
from gaff.supervisor.journal import read_entries
from gaff.supervisor.progress import SET_ASIDE, tags
from gaff.supervisor.retention import DELETING, EXPECTED
from tests.live import CONFIG, different
from tests.supervisor.drive import processes_of

RESET_EVERY = 200  # trained in about the time of a launch
CHECKPOINT_FACTOR = 150  # tags of the user's own, so that a launch also begins inside a segment
GAFF_KEYS = "  keep: 2\n  watch: {restarts: 1000, same_iteration: 1000, backoff_seconds: 0}\n"
MOMENTS = ("starting", "training", "saving", "ending", "surgery", "deleting", "between")
VICTIMS = {"supervisor": 20, "machine": 20, "rank": 30, "launcher": 12, "guardian": 18}  # how often, in percent
AIMS = {"any": 45, "training": 10, "saving": 15, "surgery": 15, "deleting": 15}
LINGER_S = {"training": 1.0, "saving": 0.05, "surgery": 0.2, "deleting": 0.003}  # at most, once it is seen
SHARED_MEMORY = Path("/dev/shm")
PATIENCE_S = 60.0  # for what is aimed at
LOOK_S = 0.001
SEGMENTS_A_KILL = 1.0  # on a quiet machine; a busy one needs fewer, and takes longer for each
KILL_EVERY = 0.8  # segments; about a launch and a half
GIVEN_UP = 5  # times that the supervisor ended by itself before the end of the run


@dataclass
class Kill:
    victim: str
    moment: str


@dataclass
class Run:
    """``gaff run`` in a folder: started, looked at, started again."""

    config: Path
    root: Path
    starts: int = 0
    gave_up: list[str] = field(default_factory=list)

    def start(self) -> None:
        self.starts += 1
        self.scratch.mkdir(exist_ok=True)
        with open(self.output, "ab") as output:
            self.process = psutil.Popen(
                [sys.executable, "-m", "gaff", "run", "--config", str(self.config), "--run-dir", str(self.root)],
                env={**os.environ, "OMP_NUM_THREADS": "1", "NO_COLOR": "1", "TMPDIR": str(self.scratch)},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
            )
        self.family: dict[str, psutil.Process] = {}
        self._looked = 0.0

    @property
    def save(self) -> Path:
        return self.root / "checkpoints"

    @property
    def output(self) -> Path:
        return self.root.with_name(f"{self.root.name}.out")

    @property
    def scratch(self) -> Path:
        return self.root.with_name(f"{self.root.name}-tmp")

    def look(self, older_than_s: float = 0.0) -> None:
        """Find the processes of the run by who started whom: supervisor, guardian, launcher, rank."""
        if time.monotonic() - self._looked < older_than_s:
            return
        self.family = {"supervisor": self.process}
        parent: psutil.Process = self.process
        try:
            children = self.process.children(recursive=True)
            for name in ("guardian", "launcher", "rank"):
                parent = next(p for p in children if p.ppid() == parent.pid)
                if name == "guardian" and not any("guardian.py" in word for word in parent.cmdline()):
                    break
                self.family[name] = parent
        except (StopIteration, psutil.Error):
            pass  # there are no more of them
        self._looked = time.monotonic()

    def living(self) -> list[str]:
        return [name for name, process in self.family.items() if _lives(process)]

    def operation(self) -> str | None:
        """What the supervisor itself is doing to the checkpoints, as the files tell."""
        if _scan(self.save / DELETING):
            return "deleting"
        return "surgery" if _last_line(self.root / "journal.jsonl").get("event") == "reset_begun" else None

    def moment(self) -> str:
        """What the run does, as its files and the processes last seen tell."""
        operation = self.operation()
        if operation:
            return operation
        if "launcher" not in self.living():
            return "starting" if "guardian" in self.living() else "between"
        log = max(self.root.glob("segments/*/attempt-*.log"), key=lambda p: p.stat().st_mtime, default=None)
        end = _tail(log) if log else b""
        if b"exiting the program" in end:
            return "ending"
        if b"| iteration" not in end:
            return "starting"
        newest = max(tags(self.save), default=0)
        unfinished = newest and not _scan(self.save / f"global_step{newest}" / "configs")
        return "saving" if unfinished else "training"

    def kill(self, victim: str) -> str:
        """Kill, and say in which moment that was."""
        before = self.moment()
        names = list(self.family) if victim == "machine" else [victim]
        for name in names:
            try:
                self.family[name].kill()
            except psutil.NoSuchProcess:
                continue
        if "supervisor" not in names:
            return before
        self.process.wait()
        operation = self.operation()  # which is neither begun nor ended any more
        return operation or ("between" if before in ("surgery", "deleting") else before)


def _lives(process: psutil.Process) -> bool:
    try:
        return bool(process.is_running() and process.status() != psutil.STATUS_ZOMBIE)
    except psutil.Error:
        return False


def _scan(folder: Path) -> list[str]:
    try:
        return os.listdir(folder)
    except OSError:
        return []


def _tail(path: Path, size: int = 4096) -> bytes:
    try:
        with open(path, "rb") as file:
            file.seek(max(0, os.fstat(file.fileno()).st_size - size))
            return file.read()
    except OSError:
        return b""


def _last_line(path: Path) -> dict[str, object]:
    try:
        found = json.loads(_tail(path).splitlines()[-1])
    except (ValueError, IndexError):
        return {}
    return found if isinstance(found, dict) else {}


def write_config(folder: Path, segments: int) -> Path:
    """The tiny model of the live tests on one rank, with short segments."""
    from gaff.data.corpus import write_corpus
    from gaff.data.tokenizers import CharLevel

    (folder / "data").mkdir()
    data = write_corpus(folder / "data", CharLevel(), characters=300_000)
    text = CONFIG.replace("global_num_gpus: 2", "global_num_gpus: 1").replace("DATA", str(data))
    text = text.replace("TRAIN_ITERS", str(segments * RESET_EVERY)).replace("RESET_EVERY", str(RESET_EVERY))
    path = folder / "soak.yml"
    path.write_text(f"checkpoint_factor: {CHECKPOINT_FACTOR}{text}{GAFF_KEYS}")
    return path


def in_peace(run: Run) -> float:
    """Do a run undisturbed.  Returns the seconds that it took."""
    began = time.monotonic()
    run.start()
    if run.process.wait():
        sys.exit(f"the undisturbed run failed:\n{run.output.read_text()[-3000:]}")
    return time.monotonic() - began


def torment(run: Run, kills: int, mean_s: float, segments: int, draw: random.Random) -> list[Kill]:
    """Do the run, and kill at random until ``kills`` have hit a living process; then let it finish."""
    done: list[Kill] = []
    run.start()
    while not _has_finished(run):
        if len(done) == kills:
            run.process.wait()
            continue
        left = segments - max(tags(run.save), default=0) / RESET_EVERY
        pace = min(1.2, max(0.1, left / (SEGMENTS_A_KILL * (kills - len(done)))))  # all are to fall before the end
        aim = draw.choices(list(AIMS), list(AIMS.values()))[0] if left > 1 else "any"
        if not (_sleep(run, draw.expovariate(1 / (mean_s * pace))) if aim == "any" else _await(run, aim, draw)):
            continue
        run.look(older_than_s=0.0 if aim == "any" else 1.0)
        living = run.living()
        choices = {v: share for v, share in VICTIMS.items() if v in living or v == "machine"}
        if not living or run.process.poll() is not None:
            continue
        victim = draw.choices(list(choices), list(choices.values()))[0]
        done.append(Kill(victim, run.kill(victim)))
        print(f"{len(done):4}  {victim:<10}  {done[-1].moment:<8}  {_newest(run):>6}", file=sys.stderr, flush=True)
    return done


def _newest(run: Run) -> int:
    return max(tags(run.save), default=0)


def _has_finished(run: Run) -> bool:
    """Whether the run is over.  Starts it again where its supervisor is gone."""
    code = run.process.poll()
    if code is None:
        return False
    if code == 0:
        return True
    if code != -9:
        said = run.output.read_text().strip().splitlines()[-1:]
        run.gave_up.append(f"exit code {code}: {' '.join(said)}")
        print(f"      the supervisor gave up with {run.gave_up[-1]}", file=sys.stderr, flush=True)
    if len(run.gave_up) == GIVEN_UP:
        return True
    run.start()
    return False


def _sleep(run: Run, seconds: float) -> bool:
    """Returns False where the supervisor ends before."""
    try:
        run.process.wait(seconds)
    except psutil.TimeoutExpired:
        return True
    return False


def _await(run: Run, aim: str, draw: random.Random) -> bool:
    """Wait until the run is seen to do what is aimed at, or for too long.  Returns False where it ends before."""
    deadline = time.monotonic() + PATIENCE_S
    while run.process.poll() is None and time.monotonic() < deadline:
        if aim in ("training", "saving"):
            run.look(older_than_s=0.5)  # takes longer than the others last
        if (run.moment() if aim in ("training", "saving") else run.operation()) == aim:
            time.sleep(draw.uniform(0, LINGER_S[aim]))
            return True
        time.sleep(LOOK_S)
    return run.process.poll() is None


def differences(run: Path, peaceful: Path) -> list[str]:
    """How the outcome of a run differs from that of another one."""
    ours, theirs = tags(run / "checkpoints"), tags(peaceful / "checkpoints")
    found = [f"tags {ours} instead of {theirs}"] if ours != theirs else []
    for iteration in sorted({*ours} & {*theirs}):
        name = f"global_step{iteration}"
        changed = different(run / "checkpoints" / name, peaceful / "checkpoints" / name)
        found += [f"{name}: {len(changed)} tensors and numbers differ, {changed[0]} for one"] if changed else []
    lines = [load_metrics(root).series for root in (run, peaceful)]
    losses = [dict(zip(one.iteration.tolist(), one.loss.tolist(), strict=True)) for one in lines]
    if losses[0] != losses[1]:
        found.append(f"the losses of {sum(losses[0].get(i) != x for i, x in losses[1].items())} iterations differ")
    return found


def left_behind(run: Run, undisturbed: Run, shared_memory: set[str]) -> list[str]:
    """What should have gone with the last process."""
    found = [f"process {pid}" for pid in processes_of(run.root)]
    listed = [p.relative_to(run.root) for p in sorted(run.root.rglob("*"))]
    kept = [p for p in listed if SET_ASIDE not in p.parts]  # what is set aside is kept as it was found
    names = {EXPECTED, DELETING, "intent.json", "staged", "new-values.safetensors"}
    found += [str(p) for p in kept if p.name in names or p.name.endswith(("-tmp", ".tmp"))]
    found += [f"TMPDIR/{name}" for name in sorted({*_scan(run.scratch)} - {*_scan(undisturbed.scratch)})]
    found += [f"/dev/shm/{name}" for name in sorted({*_scan(SHARED_MEMORY)} - shared_memory)]
    found += ["a name in the lock"] if (run.root / "lock").stat().st_size else []
    latest = (run.save / "latest").read_text()
    return found + ([f"latest names {latest}"] if latest != f"global_step{_newest(run)}" else [])


def tell(run: Run, kills: list[Kill], seconds: float) -> None:
    """The table."""
    counts = Counter((kill.victim, kill.moment) for kill in kills)
    print(f"{'kills':<12}" + "".join(f"{moment:>10}" for moment in MOMENTS) + f"{'all':>10}")
    for victim in (*VICTIMS, "all"):
        row = [sum(n for (v, m), n in counts.items() if victim in (v, "all") and m == moment) for moment in MOMENTS]
        print(f"{victim:<12}" + "".join(f"{n or '·':>10}" for n in row) + f"{sum(row):>10}")
    events = Counter(entry.event for entry in read_entries(run.root))
    metrics = load_metrics(run.root)
    logged = sum(len(attempt.series) for attempt in metrics.attempts)
    print(f"\niterations                       {len(metrics.series)} in {seconds / 60:.1f} min")
    print(f"iterations trained twice or more {logged - len(metrics.series)}")
    print(f"launches of the trainer          {len(metrics.attempts)}")
    print(f"restarts by the supervisor       {events['restart_planned']}")
    print(f"starts by the user               {run.starts}")
    print(f"tags set aside                   {events['tag_set_aside']}")
    print(f"surgery finished after a kill    {events['surgery_finished']}")
    print(f"deletions finished after a kill  {events['deletion_finished']}")


def soak(folder: Path, kills: int, segments: int, seed: int) -> bool:
    """All of it.  Returns whether everything held."""
    config = write_config(folder, segments)
    peaceful, run = Run(config, folder / "undisturbed"), Run(config, folder / "run")
    segment_s = in_peace(peaceful) / segments
    print(f"{segments} segments of {RESET_EVERY} iterations, {segment_s:.1f} s each undisturbed; seed {seed}\n")
    shared_memory = {*_scan(SHARED_MEMORY)}
    began = time.monotonic()
    done = torment(run, kills, segment_s * KILL_EVERY, segments, random.Random(seed))
    tell(run, done, time.monotonic() - began)
    wrong = [f"the supervisor gave up: {why}" for why in run.gave_up]
    wrong += [f"the run ended after {len(done)} of {kills} kills"] if len(done) < kills else []
    with contextlib.redirect_stdout(sys.stderr):  # what DeepSpeed says while its pickles are read
        wrong += differences(run.root, peaceful.root)
    wrong += [f"left behind: {name}" for name in left_behind(run, peaceful, shared_memory)]
    print("\n" + "\n".join(wrong or ["finished; identical to the undisturbed run; nothing left behind"]))
    return not wrong


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--segments", type=int, help="default: one for each kill, so that the run outlasts them")
    parser.add_argument("--folder", type=Path, help="where to work, and what to leave; a temporary folder by default")
    options = parser.parse_args()
    if RUN_ID in os.environ:
        parser.error(f"unset {RUN_ID}")
    folder = Path(tempfile.mkdtemp(dir=options.folder, prefix="soak-"))
    held = soak(folder, options.kills, options.segments or max(4, round(options.kills * SEGMENTS_A_KILL)), options.seed)
    if held and options.folder is None:
        shutil.rmtree(folder)
    else:
        print(f"\nall files are in {folder}")
    print(f"\npython {sys.version.split()[0]}, {os.cpu_count()} cores, {os.uname().machine}")
    return 0 if held else 1


if __name__ == "__main__":
    sys.exit(main())
