# SPDX-License-Identifier: Apache-2.0
"""Walltimes as people and schedulers write them."""

from __future__ import annotations

import re

_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400}
_PARTS = re.compile(r"(?:(?P<days>\d+)-)?(?P<rest>\d+(?::\d+){0,2})")


def parse_time(text: str) -> float:
    """Seconds of a time: with a unit, ``90s`` or ``12h``, or as ``sbatch --time`` takes it, ``1:30:00`` or ``2-12``.

    Raises:
        ValueError: it is none, or 0.
    """
    unit = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([smhd])", text.strip())
    seconds = float(unit[1]) * _UNITS[unit[2]] if unit else _slurm_time(text)
    if seconds <= 0:
        raise ValueError(f"{text!r} is no time")
    return seconds


def _slurm_time(text: str) -> float:
    """sbatch(1): minutes, minutes:seconds, hours:minutes:seconds, days-hours, days-hours:minutes[:seconds]."""
    match = _PARTS.fullmatch(text.strip())
    if not match:
        raise ValueError(f"{text!r} is no time")
    parts = [int(part) for part in match["rest"].split(":")]
    if match["days"] is not None:
        hours, minutes, seconds = (*parts, 0, 0)[:3]
        return int(match["days"]) * 86400.0 + hours * 3600 + minutes * 60 + seconds
    if len(parts) == 1:
        return parts[0] * 60.0
    hours, minutes, seconds = ([0, *parts] if len(parts) == 2 else parts)[:3]
    return hours * 3600.0 + minutes * 60 + seconds


def clock_time(seconds: float) -> str:
    """``HH:MM:SS``, which Slurm and Grid Engine both take; hours may be more than 24."""
    whole = round(seconds)
    return f"{whole // 3600:02d}:{whole // 60 % 60:02d}:{whole % 60:02d}"
