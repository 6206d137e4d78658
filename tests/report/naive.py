# SPDX-License-Identifier: Apache-2.0
"""The figures of the analysis, worked out again from the logs' text in the plainest way: what tests compare with."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

_LINE = re.compile(r"\| iteration +(\d+)/.*\| lm_loss: ([0-9.E+-]+) \|")


def naive_curve(run_dir: Path) -> list[tuple[int, float]]:
    """(iteration, loss) of a run that nothing disturbed."""
    logs = sorted(run_dir.glob("segments/*/attempt-1.log"))
    return [(int(i), float(loss)) for log in logs for i, loss in _LINE.findall(log.read_text())]


def naive_resets(run_dir: Path) -> list[int]:
    entries = [json.loads(line) for line in (run_dir / "journal.jsonl").read_text().splitlines()]
    return [entry["iteration"] for entry in entries if entry["event"] == "reset_done"]


def naive_recovery(curve: Sequence[tuple[int, float]], resets: Sequence[int], place: int) -> dict[str, Any]:
    """The measures of one reset."""
    reset = resets[place]
    begin = resets[place - 1] if place else 0
    end = resets[place + 1] if place + 1 < len(resets) else curve[-1][0]
    level = [loss for i, loss in curve if begin < i <= reset][-3:]
    before = sum(level) / len(level)
    later = [(i, loss) for i, loss in curve if reset < i <= end]
    back = None
    for i, loss in later:
        if loss <= before:
            back = i
            break
    rise = [(i, loss) for i, loss in later if back is None or i <= back]
    peak = max(loss for _, loss in rise)
    peak_iteration = next(i for i, loss in rise if loss == peak)
    area, last = 0.0, reset
    for i, loss in rise:
        area += max(0.0, loss - before) * (i - last)
        last = i
    half, half_life, previous = before + (peak - before) / 2, None, None
    for i, loss in rise:
        if i > peak_iteration and loss <= half and previous is not None and half_life is None:
            at, above = previous
            half_life = at + (above - half) / (above - loss) * (i - at) - peak_iteration
        previous = (i, loss)
    after = [loss for _, loss in later][-3:]
    return {
        "before": before,
        "peak": peak,
        "peak_iteration": peak_iteration,
        "spike": peak - before,
        "area": area,
        "recovered_iteration": back,
        "iterations": None if back is None else back - reset,
        "half_life": half_life,
        "loss_after": sum(after) / len(after),
        "spent": (later[-1][0] if back is None else back) - reset,
    }
