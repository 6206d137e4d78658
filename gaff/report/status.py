# SPDX-License-Identifier: Apache-2.0
"""Where a run stands, from its run directory alone, on any node, whether or not a supervisor is at work.

The checkpoint directory says what is safe, the journal what happened, the ends of the newest logs how it is getting
on, the lock file whether anybody is at work.  Nothing is written, and no log is read but for its end, so it is as
quick for a long run as for a short one.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable
from datetime import datetime, timedelta, timezone
from pathlib import Path
from statistics import median
from typing import Any

from gaff.cluster.record import RECORD
from gaff.errors import InputError, Location, Problem
from gaff.plan.schedule import Reset, Segment
from gaff.report.checkpoints import Checkpoints
from gaff.report.history import History, Launch, read_history
from gaff.report.log_tail import LogTail, launches_by_logs, read_tail
from gaff.report.queue import QueueLook
from gaff.report.replay import segment_of
from gaff.report.standing import Standing
from gaff.supervisor.journal import JOURNAL_NAME, Entry, read_entries
from gaff.supervisor.lock_owner import LOCK_NAME
from gaff.supervisor.lock_presence import PERIODS, Onlooker, Presence, presence
from gaff.supervisor.ownership import IDENTITY_NAME

SCHEMA = "gaff.status/1"
_SIGNS = (IDENTITY_NAME, JOURNAL_NAME, "config.yml", LOCK_NAME, RECORD)  # any of them makes a run directory
_RECENT_LINES = 20


class StatusReader:
    """Reads one run's status as often as it is asked.

    Args:
        run_dir: the run directory.
        patient: where the supervisor is on another machine, wait up to two of its beats for it to stir, if need be.

    Raises:
        InputError: it is no run directory.
    """

    def __init__(self, run_dir: Path, *, patient: bool = True) -> None:
        if not any((run_dir / name).is_file() for name in _SIGNS):
            why = "it has no run.json" if run_dir.is_dir() else "there is no such directory"
            what = f"is no run directory: {why}"
            raise InputError(Problem("no-run", what, "name one, as runs/NAME", Location(str(run_dir))))
        self._run_dir = run_dir
        self._patient = patient
        self._onlooker = Onlooker(run_dir / LOCK_NAME)
        self._checkpoints = Checkpoints(run_dir)
        self._queue = QueueLook(run_dir)

    def read(self) -> dict[str, Any]:
        """The present status as plain JSON values (schema ``gaff.status/1``, see docs/journal.md).

        Raises:
            OSError: the journal is there and cannot be read.
        """
        now = datetime.now(timezone.utc)
        seen = self._at_work(now)  # first: an end that is journalled after this look is no death
        history = read_history(read_entries(self._run_dir))
        segments, train_iters = _plan(self._run_dir)
        launches = tuple(history.launches) or launches_by_logs(self._run_dir, segments)
        interval = history.started.number("log_interval") if history.started else None
        tails = tuple(_tail(self._run_dir, launch, interval) for launch in launches[-2:])
        told = history.started.number("train_iters") if history.started else None
        total = next((line.total for tail in tails for line in tail.lines), None)
        found = Standing(
            now=now,
            history=history,
            segments=segments,
            train_iters=train_iters or told or total,
            launches=launches,
            tails=tails,
            newest=self._checkpoints.newest(),
            owner=seen,
            beat=_written(self._run_dir / LOCK_NAME) if seen.at_work else None,
        )
        return {
            "schema": SCHEMA,
            "run_dir": str(self._run_dir),
            "time": _iso(now),
            **_to_json(found),
            "job": self._queue.read(),
            "set_aside": [
                {"place": str(place), **_set_aside(history, place)} for place in self._checkpoints.set_aside()
            ],
        }

    def _at_work(self, now: datetime) -> Presence:
        """Who is at work.  On another machine that is told by the age of the last beat, and if need be by the next."""
        path = self._run_dir / LOCK_NAME
        try:
            seen = self._onlooker.look()
            if seen.at_work is not None:
                return seen
            beat = _written(path)
            if beat and abs((now - beat).total_seconds()) < PERIODS.stale_s:
                return Presence(seen.owner, True, seen.silent_s)
            seen = presence(path) if self._patient else seen
        except OSError:
            return Presence(None, False, 0.0)
        return Presence(seen.owner, bool(seen.at_work), seen.silent_s)


def _to_json(found: Standing) -> dict[str, Any]:
    running = found.state == "running"
    return {
        "state": found.state,
        "phase": found.phase,
        "why": found.why,
        "iteration": found.iteration,
        "train_iters": found.train_iters,
        "segment": _segment(found),
        "checkpoint": {
            "iteration": found.newest.iteration,
            "unfinished": {str(iteration): why for iteration, why in found.newest.unfinished.items()},
        },
        "training": _training(found),
        "resets": _resets(found),
        "restarts": _restarts(found.history),
        "warnings": {"count": found.history.warned, "latest": [_warning(e) for e in found.history.warnings]},
        "seconds_left": _rounded(found.live.seconds_left()) if running and found.train_iters else None,
        "time_limit": _time_limit(found.history) if running else None,
        "stop_asked": _stop_asked(found.history) if running else None,
        "supervisor": _supervisor(found),
        "log_written": _iso(found.tails[-1].written) if found.tails else None,
        "last_sign": _last_sign(found),
    }


def _segment(found: Standing) -> dict[str, Any] | None:
    if not found.launches:
        return None
    launch = found.launches[-1]
    segment = segment_of(launch, found.segments)
    about = {"number": segment.number, "of": len(found.segments) or None, "start": segment.start, "stop": segment.stop}
    return {**about, "attempt": launch.attempt, "until": launch.launched.number("stop"), "goal": launch.goal}


def _training(found: Standing) -> dict[str, Any]:
    """Figures of the last iteration line; speeds are medians of the newest lines."""
    last = found.lines[-1] if found.lines else None
    return {
        "iteration": last.iteration if last else None,
        "loss": last.loss if last and last.loss is not None and math.isfinite(last.loss) else None,
        "diverged": last is not None and last.loss is not None and not math.isfinite(last.loss),
        "learning_rate": last.learning_rate if last else None,
        "ms_per_iteration": found.live.ms_per_iteration,
        "samples_per_s": _median(line.samples_per_s for line in found.lines[-_RECENT_LINES:]),
    }


def _resets(found: Standing) -> dict[str, Any]:
    planned = [segment.reset for segment in found.segments if segment.reset]
    done = found.resets_done
    last = done[-1] if done else None
    following = next((reset for reset in planned if last is None or reset.number > last.number), None)
    return {
        "done": len(done),
        "planned": len(planned) if found.segments else None,
        "last": last and {"number": last.number, "iteration": last.iteration, "time": _iso(last.time)},
        "next": following and {"number": following.number, "iteration": following.iteration},
    }


def _restarts(history: History) -> dict[str, Any]:
    """Those that were made automatically, over the whole run."""
    planned, failed = history.restart, history.failure
    last = planned and {
        "time": _iso(planned.time),
        "why": failed.text("what") if failed else None,
        "number": planned.number("number"),
        "of": planned.number("of"),
        "from_iteration": planned.number("iteration"),
        "launch_at": _iso(_later(planned.time, planned.fields.get("delay_s"))),
    }
    return {"count": history.restarts, "last": last}


def _time_limit(history: History) -> str | None:
    started = history.started
    limit = started and _later(started.time, started.fields.get("time_limit_s"))
    return _iso(limit) if limit else None


def _stop_asked(history: History) -> dict[str, Any] | None:
    asked = history.stop_asked
    about = asked and {"signal": asked.text("signal"), "waits_for": asked.number("waits_for")}
    return {"time": _iso(asked.time), **about} if asked and about else None


def _supervisor(found: Standing) -> dict[str, Any] | None:
    """The one at work, else the last one that the journal tells of."""
    started, owner = found.history.started, found.owner.owner
    at_work = bool(found.owner.at_work)
    if at_work and owner and (started is None or not found.is_same_supervisor):
        return {"host": owner.host, "pid": owner.pid, "since": None, "at_work": True}
    host, pid = (started.text("host"), started.number("pid")) if started else (None, None)
    if owner and (host is None or pid is None):
        host, pid = owner.host, owner.pid
    since = _iso(started.time) if started else None
    return None if host is None else {"host": host, "pid": pid, "since": since, "at_work": at_work}


def _last_sign(found: Standing) -> str | None:
    """When anything of the run was last written; while a supervisor is at work, its beat counts as well."""
    told = [found.history.last.time if found.history.last else None, *(tail.written for tail in found.tails)]
    return _iso(max((time for time in (*told, found.beat) if time), default=None))


def _plan(run_dir: Path) -> tuple[tuple[Segment, ...], int | None]:
    """Segments and ``train_iters`` of ``plan.json``; as much of it as can be read."""
    try:
        plan = json.loads((run_dir / "plan.json").read_text(encoding="utf-8"))
        segments = [
            Segment(s["number"], s["start"], s["stop"], Reset(s["reset"], s["stop"]) if s["reset"] else None)
            for s in plan["segments"]
        ]
        return tuple(segments), int(plan["train_iters"])
    except (OSError, ValueError, LookupError, TypeError):
        return (), None


def _written(path: Path) -> datetime | None:
    try:
        return datetime.fromtimestamp(path.stat().st_mtime, timezone.utc)
    except OSError:
        return None


def _tail(run_dir: Path, launch: Launch, log_interval: int | None) -> LogTail:
    return read_tail(run_dir / launch.log, launch.start, log_interval) if launch.log else LogTail((), None)


def _warning(entry: Entry) -> dict[str, Any]:
    about = {"id": entry.text("id"), "what": entry.text("what")}
    if entry.event == "notify_failed":
        about = {"id": "notify-failed", "what": f"notify failed: {entry.text('why')}"}
    return {"time": _iso(entry.time), **about, "iteration": entry.number("iteration"), "policy": entry.text("policy")}


def _set_aside(history: History, place: Path) -> dict[str, Any]:
    """What the journal tells of a tag that was set aside."""
    entry = next((e for e in history.set_aside if Path(e.text("place") or "").name == place.name), None)
    about = {"iteration": entry.number("iteration"), "why": entry.text("why")} if entry else {}
    return {"iteration": None, "why": None, **about, "time": _iso(entry.time) if entry else None}


def _iso(time: datetime | None) -> str | None:
    return time.isoformat(timespec="milliseconds") if time else None


def _later(time: datetime | None, seconds: object) -> datetime | None:
    if time is None or not isinstance(seconds, int | float):
        return None
    return time + timedelta(seconds=seconds)


def _median(values: Iterable[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return median(known) if known else None


def _rounded(seconds: float | None) -> float | None:
    return None if seconds is None else round(seconds, 1)
