# SPDX-License-Identifier: Apache-2.0
"""What a long run's metrics cost: parse, store, load, report.  ``python -m benchmarks.metrics``

Writes a run directory of a million iterations and a thousand resets, worded as GPT-NeoX words its log, and times each
step in a process of its own, beside the bare ``json.loads`` of the same store: CPU seconds and peak memory.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

BEGIN = datetime(2026, 1, 1, tzinfo=timezone.utc)


def write_run(root: Path, iterations: int, resets: int) -> None:
    """A finished run: each segment's log, and the journal."""
    length = iterations // (resets + 1)
    draw = random.Random(0)
    with open(root / "journal.jsonl", "w") as journal:
        clock = 0.0

        def tell(event: str, **fields: Any) -> None:
            at = (BEGIN + timedelta(seconds=clock)).isoformat(timespec="milliseconds")
            journal.write(json.dumps({"event": event, "time": at, "monotonic_s": clock, **fields}) + "\n")

        tell("run_started", resume_iteration=0, train_iters=iterations, log_interval=1)
        for segment in range(1, resets + 2):
            start = (segment - 1) * length
            stop = iterations if segment == resets + 1 else start + length
            log = Path("segments") / f"{segment:04d}" / "attempt-1.log"
            tell("segment_launched", segment=segment, attempt=1, start=start, stop=stop, log=str(log))
            (root / log).parent.mkdir(parents=True)
            (root / log).write_text(_log(start, stop, iterations, segment, draw))
            clock += (stop - start) * 0.1 + 12
            tell("segment_exited", segment=segment, returncode=0, first_line_s=8.0, last_line_s=4.0)
            tell("segment_done", segment=segment, iteration=stop)
            if segment <= resets:
                tell("reset_done", reset=segment, iteration=stop, seconds=0.5)
        tell("run_finished", iteration=iterations)


def _log(start: int, stop: int, total: int, segment: int, draw: random.Random) -> str:
    level = 2 + 8 * math.exp(-5 * start / total)
    spike = 4.0 if segment > 1 else 0.0
    tau = (stop - start) / 10 * (1 - 0.5 * start / total)
    lines = [f"Loading checkpoint and starting from iteration {start}\n"]
    for i in range(start + 1, stop + 1):
        loss = level + spike * math.exp((start - i) / tau) + draw.gauss(0, 0.03)
        lines.append(
            f" samples/sec: 32.195 | iteration {i:8d}/{total:8d} | elapsed time per iteration (ms): 100.0 |"
            f" learning rate: 1.000E-04 | approx flops per GPU: 23.9GFLOPS | lm_loss: {loss:.6E} |"
            " number of skipped iterations:   0 | number of nan iterations:   0 |\n"
        )
    return "".join(lines)


# --- the steps ---


def parse(root: Path) -> None:
    from gaff.report.metrics.writer import catch_up

    catch_up(root)


def plain_json(root: Path) -> None:
    """What any JSON Lines file of this length costs."""
    with open(root / "metrics.jsonl", "rb") as store:
        found = [json.loads(line) for line in store if line.strip()]
    assert found


def load(root: Path) -> None:
    from gaff.report.metrics.gather import load_metrics

    assert len(load_metrics(root).series)


def analysis(root: Path) -> None:
    from gaff.report.reporting import report_of_run

    assert report_of_run(root, "benchmark").analysis.recoveries


def report(root: Path) -> None:
    from gaff.cli.main import main

    assert main(["report", str(root)]) == 0


def imports(root: Path) -> None:
    """What the steps below need before they begin."""
    import gaff.report.reporting  # noqa: F401


STEPS: dict[str, tuple[str, Callable[[Path], None]]] = {
    "imports": ("imports alone", imports),
    "parse": ("logs parsed, store written", parse),
    "load": ("store loaded as columns", load),
    "json": ("the same store, json.loads line by line", plain_json),
    "analysis": ("loaded and analysed", analysis),
    "report": ("loaded, analysed, page, pictures and tables written", report),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--iterations", type=int, default=1_000_000)
    parser.add_argument("--resets", type=int, default=1_000)
    parser.add_argument("--step", choices=STEPS, help=argparse.SUPPRESS)
    parser.add_argument("--root", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.step:
        STEPS[options.step][1](options.root)
        return
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        write_run(root, options.iterations, options.resets)
        print(f"{options.iterations:,} iterations, {options.resets:,} resets\n")
        print(f"{'':52}  CPU s  elapsed s  peak MB")
        for step, (words, _) in STEPS.items():
            print(f"{words:52}  {_measured(step, root)}", flush=True)


def _measured(step: str, root: Path) -> str:
    command = [sys.executable, "-m", "benchmarks.metrics", "--step", step, "--root", str(root)]
    begun = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    _, code, used = os.wait4(process.pid, 0)
    if code:
        raise SystemExit(f"{step} failed")
    seconds = used.ru_utime + used.ru_stime
    return f"{seconds:5.1f}  {time.perf_counter() - begun:9.1f}  {used.ru_maxrss / 1024:7.0f}"


if __name__ == "__main__":
    main()
