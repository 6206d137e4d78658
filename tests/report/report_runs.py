# SPDX-License-Identifier: Apache-2.0
"""Run directories for tests: a journal and logs worded as GPT-NeoX words them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

BEGIN = datetime(2026, 11, 21, 8, 0, tzinfo=timezone.utc)


def iteration_line(iteration: int, loss: float, total: int = 400, ms: float = 100.0, skipped: int = 0) -> str:
    """One line of ``training_log``, as unmodified GPT-NeoX prints it."""
    return (
        f" samples/sec: 32.195 | iteration {iteration:8d}/{total:8d} | elapsed time per iteration (ms): {ms:.1f} |"
        f" learning rate: {1e-3 * (1 - iteration / (2 * total)):.3E} | approx flops per GPU: 23.9GFLOPS |"
        f" lm_loss: {loss:.6E} | number of skipped iterations: {skipped:3d} | number of nan iterations:   0 |\n"
    )


class RunWriter:
    """Writes a run directory as the supervisor leaves it.  ``now_s`` is the journal's clock."""

    def __init__(self, directory: Path, train_iters: int = 400) -> None:
        self.directory = directory
        self.train_iters = train_iters
        self.now_s = 0.0

    def entry(self, event: str, **fields: Any) -> None:
        time = (BEGIN + timedelta(seconds=self.now_s)).isoformat(timespec="milliseconds")
        with open(self.directory / "journal.jsonl", "a", encoding="utf-8") as journal:
            journal.write(json.dumps({"event": event, "time": time, **fields}) + "\n")

    def started(self, resume_iteration: int = 0) -> None:
        self.entry("run_started", resume_iteration=resume_iteration, train_iters=self.train_iters)

    def launch(
        self,
        segment: int,
        start: int,
        stop: int,
        losses: Mapping[int, float],
        attempt: int = 1,
        says: str | None = None,
        ms: float = 100.0,
    ) -> None:
        """A launch that logs ``losses``; ``says`` is the line about where it starts from."""
        log = f"segments/{segment:04d}/attempt-{attempt}.log"
        path = self.directory / log
        path.parent.mkdir(parents=True, exist_ok=True)
        first = says if says is not None else f"Loading checkpoint and starting from iteration {start}"
        lines = [iteration_line(i, loss, self.train_iters, ms) for i, loss in losses.items()]
        path.write_text(first + "\n" + "".join(lines), encoding="utf-8")
        self.entry("segment_launched", segment=segment, attempt=attempt, start=start, stop=stop, log=log)

    def done(self, segment: int, iteration: int) -> None:
        self.entry("segment_exited", segment=segment, returncode=0)
        self.entry("segment_done", segment=segment, iteration=iteration)

    def reset(self, number: int, iteration: int, seconds: float = 0.5) -> None:
        self.entry("reset_begun", reset=number, iteration=iteration)
        self.now_s += seconds
        self.entry("reset_done", reset=number, iteration=iteration, seconds=seconds)


def finished_run(directory: Path) -> Path:
    """400 iterations, resets after 100, 200 and 300; 10 s of training and 5 s of start in each segment."""
    directory.mkdir(parents=True, exist_ok=True)
    run = RunWriter(directory)
    run.started()
    for segment in (1, 2, 3, 4):
        start, stop = (segment - 1) * 100, segment * 100
        floor = 3.0 - segment * 0.2
        losses = {i: floor + 2.0 * 0.5 ** ((i - start) / 10 - 1) for i in range(start + 10, stop + 1, 10)}
        run.launch(segment, start, stop, losses)
        run.now_s += 15
        run.done(segment, stop)
        if segment < 4:
            run.reset(segment, stop)
    run.entry("run_finished", iteration=400)
    return directory
