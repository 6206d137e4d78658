# SPDX-License-Identifier: Apache-2.0
"""What looks after a run (``keep``, ``watch``, ``notify``), carried over to its rehearsal.  Pure."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from gaff.plan.schedule import schedule
from gaff.plan.settings import GaffSettings, KeepSettings, WatchSettings
from gaff.plan.shrink_schedule import ShrunkSchedule

_RESTARTS = 2  # somebody waits for a rehearsal
_BACKOFF_S = 1.0


def shrink_care(gaff: GaffSettings, plan: ShrunkSchedule) -> GaffSettings:
    """The block for a run of minutes, on a machine that may be slow, of which nobody elsewhere needs to hear.

    ``notify`` is left out: it could tell others that the run has ended, or start what follows on it.
    """
    return replace(gaff, keep=_keep(gaff.keep, plan), watch=_watch(gaff.watch), notify=None)


def care_sentences(before: GaffSettings, after: GaffSettings) -> Iterator[str]:
    """What of it is other than in the run itself."""
    if before.keep.every != after.keep.every:
        yield f"keep.every {before.keep.every} -> {after.keep.every or 'none'}"
    was, watch = before.watch, after.watch
    if watch.restarts and (was.restarts, was.backoff_seconds) != (watch.restarts, watch.backoff_seconds):
        yield f"restarts of a trainer that fails: at most {watch.restarts}, after a second or two"
    if was.silence_minutes != watch.silence_minutes:
        yield f"watch.silence_minutes {was.silence_minutes:g} -> {watch.silence_minutes:g}"
    if was.on_slow != watch.on_slow:
        yield f"watch.on_slow {was.on_slow} -> {watch.on_slow}"
    if before.notify:
        yield "notify: nobody is told"


def _keep(keep: KeepSettings, plan: ShrunkSchedule) -> KeepSettings:
    """``every`` shrinks with the segments, and goes where so short a run has no such stop."""
    if keep.every is None:
        return keep
    every = max(1, round(keep.every * plan.unit_scale))
    segments = schedule(plan.train_iters, plan.reset_every, plan.first_reset, plan.last_reset)
    return replace(keep, every=every if any(segment.stop % every == 0 for segment in segments) else None)


def _watch(watch: WatchSettings) -> WatchSettings:
    """Times that suit a cluster do not end a trainer on a laptop."""
    silence = watch.silence_minutes
    return replace(
        watch,
        silence_minutes=silence and max(silence, WatchSettings().silence_minutes or 0.0),
        on_slow="warn",
        restarts=min(watch.restarts, _RESTARTS),
        backoff_seconds=min(watch.backoff_seconds, _BACKOFF_S),
    )
