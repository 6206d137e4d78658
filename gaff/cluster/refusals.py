# SPDX-License-Identifier: Apache-2.0
"""A scheduler's refusal, traced back to the line of the profile that caused it."""

from __future__ import annotations

import re

from gaff.cluster.profile import ClusterProfile
from gaff.errors import Problem

# What the refusal of each key is recognised by, most telling first.  Slurm 22.05 slurm_errno.c; Grid Engine 8.1.9.
_TELLS: tuple[tuple[str, str], ...] = (
    ("qos", r"\bqos\b"),
    ("account", r"\baccount\b|\bproject\b"),
    ("partition", r"partition|job queue|\bqueue\b"),
    ("reservation", r"reservation"),
    ("constraint", r"feature|constraint"),
    ("gres", r"\bgres\b|generic resource|gpu"),
    ("time", r"time limit|timelimit|--time|h_rt"),
    ("memory", r"memory|--mem\b|mem_free"),
    ("parallel_environment", r"parallel environment|\bpe\b"),
    ("cpus_per_node", r"cpu count"),
    ("nodes", r"node count|more processors|nodes"),
)
# Slurm's words for whatever is too much of anything.
_TOO_MUCH = re.compile(r"node configuration is not available", re.IGNORECASE)
_SIZES = ("nodes", "gpus_per_node", "gres", "cpus_per_node", "memory", "constraint")


def refusal(title: str, words: str, profile: ClusterProfile) -> Problem:
    """Why a scheduler does not take a job.

    Args:
        title: of the scheduler.
        words: its own.
        profile: what was asked for.
    """
    remedy = "mend it, or give another value with --job KEY=VALUE"
    if _TOO_MUCH.search(words):
        asked = ", ".join(f"{key}: {getattr(profile, key)}" for key in _SIZES if getattr(profile, key) is not None)
        what = f"{title} has no nodes for what the profile asks, `{asked}` ({words})"
        return Problem("scheduler-refused", what, remedy, profile.where(""))
    lower = words.lower()
    named = (key for key, tell in _TELLS if re.search(tell, lower))
    key = next((key for key in named if _given(profile, key)), None)
    asked = f"`{key}: {getattr(profile, key)}`" if key else "this profile"
    what = f"{title} does not take the job with {asked} ({words})"
    return Problem("scheduler-refused", what, remedy, profile.where(key or ""))


def _given(profile: ClusterProfile, key: str) -> bool:
    return key in profile.places or key in ("time", "nodes", "memory", "gres") or getattr(profile, key) is not None
