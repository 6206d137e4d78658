# SPDX-License-Identifier: Apache-2.0
"""A run's status (``gaff.status/1``) in words: a few lines, or one for a log.  Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import datetime, timezone
from typing import Any

from gaff.report import format as fmt

_LABEL_WIDTH = 12
_WARNINGS = 3
_UNFINISHED = 3
_REASON_WIDTH = 160
_SCHEDULERS = {"slurm": "Slurm", "sge": "Grid Engine"}
_SILENT_S = 60.0
_AGAIN = "the same command carries on"
_GOALS = {"measure": "to know the speed", "walltime": "as the walltime allows"}
_STATES = {
    "not started": "not started",
    "running": "running",
    "finished": "finished",
    "interrupted": f"interrupted ({_AGAIN})",
    "failed": "failed",
    "died": f"died: no supervisor is at work and no end was journalled; {_AGAIN}",
}


def render_status(status: Mapping[str, Any]) -> str:
    """The whole status; the first line says the state."""
    rows = [(label, text) for label, text in _rows(status) if text]
    return "\n".join([headline(status), *(f"{label:<{_LABEL_WIDTH}}{text}" for label, text in rows)])


def headline(status: Mapping[str, Any]) -> str:
    """``running (training) · iteration 1,200 of 4,000 (30%) · 0:42:10 left``."""
    iteration, total = status["iteration"], status["train_iters"]
    state = f"running ({status['phase']})" if status["state"] == "running" else _STATES[status["state"]]
    parts = [state]
    if total:
        parts.append(f"iteration {iteration:,} of {total:,} ({iteration / total:.0%})")
    elif iteration:
        parts.append(f"iteration {iteration:,}")
    if status["seconds_left"] is not None:
        parts.append(f"{fmt.clock(status['seconds_left'])} left")
    return " · ".join(parts)


def status_line(status: Mapping[str, Any]) -> str:
    """The news in one line, for output that nobody redraws."""
    segment = f"segment {_segment(status)}" if status["segment"] else ""
    job = _job(status) if status["state"] != "running" else ""
    figures = [_figures(status), segment, *_counts(status), _stop_asked(status), _silence(status)]
    parts = [headline(status), job, *figures]
    return " · ".join(part for part in parts if part)


def news(status: Mapping[str, Any]) -> tuple[object, ...]:
    """What makes a new line worth it when it changes."""
    return (
        *(status[name] for name in ("state", "phase", "iteration")),
        *(status[name]["count"] for name in ("restarts", "warnings")),
        status["segment"] and (status["segment"]["number"], status["segment"]["attempt"]),
        status["job"] and status["job"]["state"],
        *(status["resets"]["done"], status["checkpoint"]["iteration"], bool(status["stop_asked"])),
    )


def _rows(status: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    yield "why", (status["why"] or "").partition("\n")[0]
    yield "stopping", _stop_asked(status)
    yield "training", " · ".join(part for part in (_figures(status), _silence(status)) if part)
    yield "segment", _segment(status)
    yield "resets", _resets(status)
    yield "checkpoint", _checkpoint(status)
    if status["state"] != "running":  # else the newest is being written
        yield from _unfinished(status["checkpoint"]["unfinished"])
    yield "restarts", _restarts(status)
    yield "job", _job(status)
    yield "time limit", _limit(status)
    yield from _warnings(status["warnings"])
    for entry in status["set_aside"]:
        yield "set aside", f"{entry['place']}" + (f" ({entry['why']})" if entry["why"] else "")
    yield "supervisor", _supervisor(status)


def _figures(status: Mapping[str, Any]) -> str:
    training = status["training"]
    if training["iteration"] is None:
        return ""
    parts = [f"loss {'not finite' if training['diverged'] else fmt.loss(training['loss'])}"]
    if training["iteration"] != status["iteration"]:
        parts[0] += f" at iteration {training['iteration']:,}"
    if training["learning_rate"] is not None:
        parts.append(f"lr {fmt.rate(training['learning_rate'])}")
    if training["ms_per_iteration"] is not None:
        parts.append(f"{fmt.milliseconds(training['ms_per_iteration'])} an iteration")
    if training["samples_per_s"] is not None:
        parts.append(f"{training['samples_per_s']:,.1f} samples/s")
    return " · ".join(parts)


def _silence(status: Mapping[str, Any]) -> str:
    """How long a trainer at work has said nothing, where that is worth a word."""
    if status["phase"] not in ("starting", "training") or not status["log_written"]:
        return ""
    silent_s = _seconds(status["log_written"], status["time"])
    return f"its log is silent for {fmt.duration(silent_s)}" if silent_s > _SILENT_S else ""


def _job(status: Mapping[str, Any]) -> str:
    job = status["job"]
    if job is None:
        return ""
    state = "its scheduler cannot be asked here" if job["state"] is None else job["state"] or "no longer in the queue"
    return f"{job['id']} of {_SCHEDULERS.get(job['scheduler'], job['scheduler'])} · {state}"


def _segment(status: Mapping[str, Any]) -> str:
    segment = status["segment"]
    if segment is None:
        return ""
    of = f" of {segment['of']:,}" if segment["of"] else ""
    again = f", attempt {segment['attempt']}" if segment["attempt"] > 1 else ""
    early = _GOALS.get(segment["goal"]) if status["state"] == "running" else None
    until = f", now until {segment['until']:,} {early}" if early and segment["until"] else ""
    return f"{segment['number']:,}{of}: iterations {segment['start'] + 1:,} to {segment['stop']:,}{again}{until}"


def _counts(status: Mapping[str, Any]) -> list[str]:
    found = {"restart": status["restarts"]["count"], "warning": status["warnings"]["count"]}
    return [fmt.count(number, name) for name, number in found.items() if number]


def _resets(status: Mapping[str, Any]) -> str:
    resets = status["resets"]
    if not resets["planned"]:
        return "" if resets["planned"] is None else "none planned"
    parts = [f"{resets['done']:,} of {resets['planned']:,} done"]
    last, following = resets["last"], resets["next"]
    if last:
        when = f", {_at(last['time'])} ({_ago(last['time'], status)})" if last["time"] else ""
        parts.append(f"last after iteration {last['iteration']:,}{when}")
    if following:
        left = following["iteration"] - _goes_on_from(status)
        parts.append(f"next after iteration {following['iteration']:,}" + (f", in {left:,}" if left > 0 else ", due"))
    return " · ".join(parts)


def _goes_on_from(status: Mapping[str, Any]) -> int:
    """The last iteration of which the next one knows: what is lost will be trained again."""
    last = status["restarts"]["last"]
    again = last["from_iteration"] if last and status["phase"] == "waiting to restart" else None
    return int(status["iteration"] if again is None else again)


def _checkpoint(status: Mapping[str, Any]) -> str:
    iteration = status["checkpoint"]["iteration"]
    beyond = status["iteration"] - iteration
    lost = f"{fmt.count(beyond, 'iteration')} {{}}{'is' if beyond == 1 else 'are'} not" if beyond else ""
    if iteration:
        return ", ".join(filter(None, (f"iteration {iteration:,} is safe", lost.format("beyond it "))))
    if status["state"] == "not started":
        return ""
    return f"none yet, {lost.format('')} safe" if lost else "none yet"


def _unfinished(found: Mapping[str, str]) -> Iterator[tuple[str, str]]:
    for iteration, why in list(found.items())[:_UNFINISHED]:
        yield "", f"iteration {int(iteration):,} {why}"
    if len(found) > _UNFINISHED:
        yield "", f"and {len(found) - _UNFINISHED:,} before"


def _restarts(status: Mapping[str, Any]) -> str:
    restarts = status["restarts"]
    last = restarts["last"]
    if last is None:
        return ""
    text = f"{restarts['count']:,}, last {_at(last['time'])}"
    if last["number"] is not None:
        text += f" (number {last['number']} of {last['of']} without a new checkpoint)"
    if status["phase"] == "waiting to restart" and last["launch_at"]:
        text += f", launching in {fmt.duration(max(0.0, _seconds(status['time'], last['launch_at'])))}"
    return f"{text}: {_short(last['why'])}" if last["why"] else text


def _limit(status: Mapping[str, Any]) -> str:
    end = status["time_limit"]
    return f"{_at(end)}, in {fmt.clock(max(0.0, _seconds(status['time'], end)))}" if end else ""


def _warnings(warnings: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    shown = warnings["latest"][-_WARNINGS:]
    for number, warning in enumerate(shown):
        label = "" if number else "warnings"
        yield label, f"{_at(warning['time'])}  {_short(warning['what'])}"
    more = warnings["count"] - len(shown)
    if more:
        yield "", f"and {more:,} before"


def _stop_asked(status: Mapping[str, Any]) -> str:
    asked = status["stop_asked"]
    if not asked:
        return ""
    until = f" after the checkpoint at iteration {asked['waits_for']:,}" if asked["waits_for"] is not None else ""
    return f"stops for {asked['signal']}{until}"


def _supervisor(status: Mapping[str, Any]) -> str:
    supervisor = status["supervisor"]
    sign = f"last sign of life {_ago(status['last_sign'], status)}" if status["last_sign"] else ""
    if supervisor is None:
        return sign
    text = f"process {supervisor['pid']} on {supervisor['host']}"
    if supervisor["since"]:
        text += f", {'since' if supervisor['at_work'] else 'began'} {_at(supervisor['since'])}"
    return f"{text} · {sign}" if sign else text


def _short(text: str | None) -> str:
    line = " ".join((text or "").split())
    return line if len(line) <= _REASON_WIDTH else line[: _REASON_WIDTH - 1] + "…"


def _at(time: str | None) -> str:
    """A point in time as this machine's clock shows it."""
    return f"{datetime.fromisoformat(time).astimezone():%Y-%m-%d %H:%M:%S}" if time else ""


def _ago(time: str, status: Mapping[str, Any]) -> str:
    """How long before the status was read; the clocks of two machines can differ."""
    seconds = _seconds(time, status["time"])
    return f"{fmt.duration(seconds)} ago" if seconds >= 1 else "just now"


def _seconds(begin: str, end: str) -> float:
    return (_utc(end) - _utc(begin)).total_seconds()


def _utc(time: str) -> datetime:
    return datetime.fromisoformat(time).astimezone(timezone.utc)
