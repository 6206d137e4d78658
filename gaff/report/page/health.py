# SPDX-License-Identifier: Apache-2.0
"""What a person should know about a run's health, from its journal (``docs/journal.md``)."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from gaff.report.page.reported import HealthEvent
from gaff.supervisor.journal import Entry


def _field(name: str) -> Callable[[Entry], str]:
    return lambda entry: entry.text(name) or ""


def _restart(entry: Entry) -> str:
    return f"number {_said(entry, 'number')} of {_said(entry, 'of')}, from iteration {_said(entry, 'iteration')}"


def _said(entry: Entry, name: str) -> str:
    value = entry.fields.get(name)
    return "—" if value is None else str(value)


def _listed(entry: Entry, name: str) -> str:
    value = entry.fields.get(name)
    return ", ".join(str(item) for item in value) if isinstance(value, list) else _said(entry, name)


def _stop(entry: Entry) -> str:
    waits = entry.number("waits_for")
    return f"{_said(entry, 'signal')}; {'at once' if waits is None else f'after the checkpoint of iteration {waits:,}'}"


#: Event: kind, and its text.  Events that are not here belong to a run that is well.
_EVENTS: dict[str, tuple[str, Callable[[Entry], str]]] = {
    "warning": ("trouble", _field("what")),
    "trainer_failed": ("trouble", _field("what")),
    "trainer_silent": ("trouble", lambda e: f"said nothing for {_said(e, 'minutes')} minutes and was ended"),
    "run_failed": ("trouble", _field("why")),
    "notify_failed": ("trouble", _field("why")),
    "tag_set_aside": ("trouble", lambda e: f"iteration {_said(e, 'iteration')} {_said(e, 'why')}"),
    "restart_planned": ("care", _restart),
    "surgery_finished": ("care", lambda e: f"{_said(e, 'kind')} of {_said(e, 'tag')}, which had been cut short"),
    "deletion_finished": ("care", lambda e: f"iterations {_listed(e, 'iterations')}, which had been cut short"),
    "leftovers_killed": ("care", lambda e: f"processes {_listed(e, 'processes')} of an earlier launch"),
    "lock_taken_over": ("care", lambda e: f"from process {_said(e, 'pid')} on {_said(e, 'host')}"),
    "operated_by_hand": ("note", lambda e: f"{_listed(e, 'operations')} after reset {_said(e, 'reset')}"),
    "stop_asked": ("note", _stop),
    "run_interrupted": ("note", _field("why")),
    "job_signalled": ("note", lambda e: f"{_said(e, 'signal')}: {_said(e, 'cause')}"),
    "requeue_asked": ("note", lambda e: f"job {_said(e, 'job')}"),
}


def health_events(entries: Iterable[Entry]) -> tuple[HealthEvent, ...]:
    """In the order of the journal; a field that is missing is told as ``—``."""
    return tuple(_event(entry) for entry in entries if entry.event in _EVENTS)


def _event(entry: Entry) -> HealthEvent:
    kind, text = _EVENTS[entry.event]
    name = (entry.text("id") if entry.event == "warning" else None) or entry.event
    return HealthEvent(entry.time, kind, name.replace("_", " "), text(entry))
