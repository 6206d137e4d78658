# SPDX-License-Identifier: Apache-2.0
"""A scheduler's refusal, traced back to the line of the profile that caused it."""

from __future__ import annotations

import re

from gaff.cluster.profile import ClusterProfile
from gaff.errors import Problem

# What the refusal of each key is recognised by, most telling first.  Slurm 22.05 slurm_errno.c; Grid Engine 8.1.9.
_TELLS: tuple[tuple[str, str], ...] = (
    ("account", r"account|\bproject\b"),
    ("qos", r"\bqos\b"),
    ("partition", r"partition|job queue|\bqueue\b"),
    ("reservation", r"reservation"),
    ("constraint", r"feature|constraint"),
    ("gres", r"\bgres\b|generic resource|gpu"),
    ("time", r"time limit|timelimit|--time|h_rt"),
    ("memory", r"memory|--mem\b|mem_free"),
    ("parallel_environment", r"parallel environment|\bpe\b"),
    ("nodes", r"node count|node configuration|more processors|nodes"),
)


def refusal(title: str, words: str, profile: ClusterProfile) -> Problem:
    """Why a scheduler does not take a job.

    Args:
        title: of the scheduler.
        words: its own.
        profile: what was asked for.
    """
    lower = words.lower()
    named = (key for key, tell in _TELLS if re.search(tell, lower))
    key = next((key for key in named if _given(profile, key)), None)
    where = profile.where(key or "")
    asked = f" `{key}: {getattr(profile, key)}`" if key else ""
    what = f"{title} does not take the job with{asked or ' this profile'} ({words})"
    return Problem("scheduler-refused", what, "mend it, or give another value with --job KEY=VALUE", where)


def _given(profile: ClusterProfile, key: str) -> bool:
    return key in profile.places or key in ("time", "nodes", "memory", "gres") or getattr(profile, key) is not None
