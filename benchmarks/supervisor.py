# SPDX-License-Identifier: Apache-2.0
"""What supervising costs: processor time, memory, and the time until the trainer's end is noticed.

    python -m benchmarks.supervisor [--seconds 60] [--processes 0] [--lines 1000000] [--launches 50] [--folder DIR]

A stand-in trainer logs iteration lines as GPT-NeoX words them; all else is what ``gaff run`` does, in a process of its
own, its output into a pipe (plain lines) or to a terminal (the panel).

* Rates: for each a new run, measured from its first lines on.  Shares are of one core, memory is the process's peak.
  The guardian, the process between supervisor and trainer, is measured apart.  ``--processes`` so many idle ones are
  there beside, as on a node with many cores: who looks for processes has to pass over them.
* Burst: so many lines at once, and how long the supervisor takes to have read them.
* Report: what the end of such a run costs, when curve, page and summary are written of 100,000 lines.
* Reaction: from the trainer's last act, which notes the time, to the journal's ``segment_exited``.

Exit code 1 when a target is missed: 1 % of a core and 150 MB up to 10 lines a second; 0.2 s for every launch.
"""

from __future__ import annotations

import argparse
import json
import os
import pty
import shutil
import statistics
import subprocess
import sys
import tarfile
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import psutil

from gaff.errors import GaffError, Problem
from gaff.plan.config import Config, load_config
from gaff.supervisor.journal import read_entries
from gaff.trainers.contract import Launch, SegmentRequest
from tests.conftest import CHECKPOINTS
from tests.live import CONFIG
from tests.supervisor.drive import processes_of
from tests.supervisor.fake_trainer import write_tag

REPOSITORY = Path(__file__).resolve().parent.parent
TEMPLATE = "zero1-fp32-pp1-tp1-dp1"
ITERATION_LINE = (  # as GPT-NeoX prints it, with its timers' line after it
    " samples/sec: 183.864 | iteration {iteration:8d}/{total:8d} | elapsed time per iteration (ms): 21.8 | "
    "learning rate: 4.719E-04 | approx flops per GPU: 9.8GFLOPS | lm_loss: {loss:.6E} | "
    "number of skipped iterations:   0 | number of nan iterations:   0 |\ntime (ms)"
)
RATES = ((1, "plain"), (10, "plain"), (100, "plain"), (1, "panel"), (10, "panel"))  # lines a second, and how shown
ORDINARY = 10  # lines a second
WARM_UP_S = 5.0
REPORT_LINES = 100_000
MOST_SHARE, MOST_MB, MOST_REACTION_S = 0.01, 150.0, 0.2


class Cost(NamedTuple):
    share: float
    megabytes: float


# --- in the trainer's process ---


def stand_in(request: dict[str, Any]) -> None:
    """Log, and then wait, or write the tag and end."""
    start, stop, save = request["start"], request["stop"], Path(request["save"])
    print(f"Loading checkpoint and starting from iteration {start}" if start else "training ...", flush=True)
    began = time.monotonic()
    for iteration in range(start + 1, stop + 1):
        if request["rate"]:
            time.sleep(max(0.0, began + (iteration - start) / request["rate"] - time.monotonic()))
        line = ITERATION_LINE.format(iteration=iteration, total=request["total"], loss=3 + 1 / iteration)
        print(line, flush=bool(request["rate"]))
    sys.stdout.flush()
    if request["then"] == "wait":
        time.sleep(3600)
    if request["then"] == "save":
        write_tag(save, save / f"global_step{start}" if start else Path(request["template"]), stop)
        print(f"rank: 0 | time: 2026-11-21 03:12:11 | exiting the program at iteration {stop}", flush=True)
    with open(request["ends"], "a") as file:
        file.write(f"{time.monotonic()}\n")
        file.flush()
        os._exit(0)


# --- in the supervisor's process ---


@dataclass
class StandIn:
    """See :class:`gaff.trainers.contract.Trainer`."""

    request: dict[str, Any]
    name: str = "stand-in"

    def check(self, config: Config) -> list[Problem]:
        return []

    def warnings(self, config: Config) -> list[Problem]:
        return []

    def fixed_port(self, config: Config) -> int | None:
        return None

    def launcher_keys(self, config: Config) -> dict[str, Any]:
        return {}

    def prepare(self, config: Config, request: SegmentRequest) -> Launch:
        told = {"start": request.start, "stop": request.stop, "save": str(request.save), **self.request}
        command = (sys.executable, "-m", "benchmarks.supervisor", "--stand-in", json.dumps(told))
        return Launch(command, REPOSITORY, {})


def supervise(config_path: Path, run_dir: Path, request: dict[str, Any]) -> None:
    """What ``gaff run`` does, with the stand-in; what its report costs goes to ``report.json`` beside the run."""
    from gaff.cli import execute
    from gaff.plan.plan import build_plan

    write_report = execute.write_report

    def measured(root: Path, title: str) -> None:
        before, began = _peak_mb(os.getpid()), time.monotonic()
        write_report(root, title)
        cost = {"seconds": time.monotonic() - began, "before": before, "after": _peak_mb(os.getpid())}
        root.with_name("report.json").write_text(json.dumps(cost))

    execute.write_report = measured
    config = load_config([config_path])
    trainer = StandIn(request)
    try:
        with execute.held(run_dir) as lock:
            execute.execute(config, build_plan(config, {}), trainer, run_dir, lock)
    except GaffError as error:
        print(error, file=sys.stderr)


# --- in the process that measures ---


def write_config(folder: Path, train_iters: int, reset_every: int | str) -> Path:
    text = CONFIG.replace("TRAIN_ITERS", str(train_iters)).replace("RESET_EVERY", str(reset_every))
    path = folder / "run.yml"
    path.write_text(f"{text}  watch: {{restarts: 0, disk_factor: never}}\n")
    return path


@contextmanager
def supervisor(folder: Path, iterations: int, request: dict[str, Any], view: str = "plain") -> Iterator[psutil.Process]:
    """A supervisor at work.  Leaving the block ends it."""
    config = write_config(folder, iterations, request.get("reset_every", "never"))
    told = {"total": iterations, "rate": 0, "then": "wait", "ends": str(folder / "ends"), **request}
    ours, theirs = pty.openpty() if view == "panel" else os.pipe()
    process = psutil.Popen(
        [sys.executable, "-m", "benchmarks.supervisor", "--supervise", config, folder / "run", json.dumps(told)],
        cwd=REPOSITORY,
        env={**os.environ, "TERM": "xterm-256color", "COLUMNS": "100", "LINES": "40"},
        stdin=subprocess.DEVNULL,
        stdout=theirs,
        stderr=open(folder / "errors", "wb"),  # noqa: SIM115 - the process's own from here on
        start_new_session=True,
    )
    os.close(theirs)
    threading.Thread(target=_drain, args=(ours,), daemon=True).start()
    try:
        yield process
    finally:
        if process.poll() is None:
            process.kill()  # else it would write a report, of a million lines perhaps
            process.wait()
            _until(lambda: not processes_of(folder / "run"))  # its guardian ends the trainer


def _drain(descriptor: int) -> None:
    """Read what comes, as a terminal or the other end of a pipe does."""
    try:
        while os.read(descriptor, 1 << 16):
            pass
    except OSError:  # a terminal that nobody writes to any more
        pass
    os.close(descriptor)


def _peak_mb(pid: int) -> float:
    return _status(pid, "VmHWM")


def _status(pid: int, name: str) -> float:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith(f"{name}:"))


def _until(condition: Any, seconds: float = 120.0) -> Any:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        found = condition()
        if found:
            return found
        time.sleep(0.02)
    raise TimeoutError(condition)


def _log(folder: Path) -> Path:
    return folder / "run/segments/0001/attempt-1.log"


def _has_lines(folder: Path) -> bool:
    return _log(folder).exists() and b"| iteration" in _log(folder).read_bytes()[:4096]


def _processor_s(process: psutil.Process) -> float:
    times = process.cpu_times()
    return float(times.user + times.system)


def at_rate(folder: Path, rate: int, view: str, seconds: float) -> list[Cost]:
    """What the supervisor and the guardian cost while the trainer logs so many lines a second."""
    lines = int(rate * (seconds + 4 * WARM_UP_S)) + 10
    with supervisor(folder, lines, {"rate": rate}, view) as process:
        _until(lambda: _has_lines(folder))
        time.sleep(WARM_UP_S)
        both = (process, process.children()[0])
        before, began = [_processor_s(p) for p in both], time.monotonic()
        time.sleep(seconds)
        took = time.monotonic() - began
        shares = [(_processor_s(p) - b) / took for p, b in zip(both, before, strict=True)]
        return [Cost(share, _peak_mb(p.pid)) for share, p in zip(shares, both, strict=True)]


def rates(folder: Path, seconds: float) -> bool:
    """The table of rates.  Returns whether the targets are met."""
    print(f"{'lines/s':>8}  {'view':<6} {'supervisor':>18} {'guardian':>20}", flush=True)
    met = True
    for rate, view in RATES:
        with _fresh(folder) as place:
            ours, guardians = at_rate(place, rate, view, seconds)
        shown = [f"{cost.share:8.2%}  {cost.megabytes:5.0f} MB" for cost in (ours, guardians)]
        print(f"{rate:8}  {view:<6} {shown[0]:>18} {shown[1]:>20}", flush=True)
        met &= rate > ORDINARY or all(c.share < MOST_SHARE and c.megabytes < MOST_MB for c in (ours, guardians))
    return met


def burst(folder: Path, lines: int) -> bool:
    """Lines as fast as they can be written; returns whether memory stays within its target."""
    with supervisor(folder, lines, {"rate": 0}) as process:
        _until(lambda: _has_lines(folder))
        _until(lambda: _tail_has(_log(folder), f"{lines}/"), 600)
        written, before = time.monotonic(), _processor_s(process)
        _until(lambda: _read_so_far(process.pid, _log(folder)) == _log(folder).stat().st_size, 1200)
        took, size = time.monotonic() - written, _log(folder).stat().st_size
        time.sleep(1.0)
        used, resident, peak = _processor_s(process), _status(process.pid, "VmRSS"), _peak_mb(process.pid)
    print(f"\nburst of {lines:,} lines, {size / 1e6:.0f} MB: read {took:.1f} s after the last was written,")
    print(f"  {used:.1f} s of processor time ({used - before:.1f} s of it after), {used / lines * 1e6:.0f} µs a line,")
    print(f"  memory {resident:.0f} MB after it, {peak:.0f} MB at most", flush=True)
    return peak < MOST_MB


def _tail_has(path: Path, text: str) -> bool:
    with open(path, "rb") as file:
        file.seek(max(0, path.stat().st_size - 1024))
        return text.encode() in file.read()


def _read_so_far(pid: int, log: Path) -> int:
    """How far into the log the supervisor is."""
    for descriptor in Path(f"/proc/{pid}/fd").iterdir():
        try:
            words = Path(f"/proc/{pid}/fdinfo/{descriptor.name}").read_text().split()  # pos: 5 flags: 02100000 …
            if descriptor.readlink() == log and int(words[3], 8) & os.O_ACCMODE == os.O_RDONLY:
                return int(words[1])  # the other one is for the trainer to write to
        except OSError:  # closed meanwhile
            continue
    return 0


def report(folder: Path) -> None:
    """The end of a run of many lines."""
    with supervisor(folder, REPORT_LINES, {"rate": 0, "then": "end"}) as process:
        process.wait(1200)
    cost = json.loads((folder / "report.json").read_text())
    print(f"\nreport of {REPORT_LINES:,} lines: {cost['seconds']:.1f} s, memory at most", end=" ")
    print(f"{cost['after']:.0f} MB, before it {cost['before']:.0f} MB", flush=True)


def reaction(folder: Path, launches: int) -> bool:
    """From the trainer's last act to the journal; returns whether it is in time always."""
    with tarfile.open(CHECKPOINTS / f"{TEMPLATE}.tar.xz") as archive:
        archive.extractall(folder)
    template = folder / TEMPLATE / "global_step5"
    every = 250 // launches  # the stand-in's tags count to 255
    request = {"then": "save", "template": str(template), "reset_every": every}
    with supervisor(folder, every * launches, request) as process:
        code = process.wait(1200)
    ends = [float(line) for line in (folder / "ends").read_text().split()]
    seen = [float(e.fields["monotonic_s"]) for e in read_entries(folder / "run") if e.event == "segment_exited"]
    if code or not len(ends) == len(seen) == launches:
        raise RuntimeError(f"exit code {code}: {(folder / 'errors').read_text()[-2000:]}")
    took = [there - here for here, there in zip(ends, seen, strict=True)]
    median, longest = statistics.median(took), max(took)
    print(f"\nreaction to the trainer's end, {launches} launches: {median:.3f} s median, {longest:.3f} s at most")
    return longest <= MOST_REACTION_S


@contextmanager
def _fresh(folder: Path) -> Iterator[Path]:
    place = Path(tempfile.mkdtemp(dir=folder))
    try:
        yield place
    finally:
        shutil.rmtree(place)


@contextmanager
def _crowd(count: int) -> Iterator[None]:
    """So many idle processes."""
    idle = [subprocess.Popen(["sleep", "infinity"]) for _ in range(count)]
    try:
        yield
    finally:
        for process in idle:
            process.kill()
            process.wait()


def main() -> int:
    if sys.argv[1:2] == ["--stand-in"]:
        stand_in(json.loads(sys.argv[2]))
        return 0
    if sys.argv[1:2] == ["--supervise"]:
        supervise(Path(sys.argv[2]), Path(sys.argv[3]), json.loads(sys.argv[4]))
        return 0
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=60.0, help="for each rate")
    parser.add_argument("--processes", type=int, default=0, help="idle ones beside")
    parser.add_argument("--lines", type=int, default=1_000_000, help="of the burst")
    parser.add_argument("--launches", type=int, default=50, help="of the reaction, 125 at most")
    parser.add_argument("--folder", type=Path, help="where to work; a temporary folder by default")
    options = parser.parse_args()
    met = []
    with _crowd(options.processes), tempfile.TemporaryDirectory(dir=options.folder) as folder:
        print(f"{len(psutil.pids())} processes on the machine, load {os.getloadavg()[0]:.1f}")
        met.append(rates(Path(folder), options.seconds))
        for part, count in ((burst, options.lines), (reaction, options.launches)):
            with _fresh(Path(folder)) as place:
                met.append(part(place, count))
        with _fresh(Path(folder)) as place:
            report(place)
    print(f"\npython {sys.version.split()[0]}, {os.cpu_count()} cores, {os.uname().machine}")
    return 0 if all(met) else 1


if __name__ == "__main__":
    sys.exit(main())
