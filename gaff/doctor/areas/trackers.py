# SPDX-License-Identifier: Apache-2.0
"""Where the config sends the run's metrics (``gaff: track``)."""

from __future__ import annotations

from collections.abc import Iterator

from gaff.doctor.finding import Finding, from_problem
from gaff.doctor.subject import Subject
from gaff.report.trackers.offer import tracker_problems

AREA = "trackers"


def examine(subject: Subject) -> Iterator[Finding]:
    if subject.config is None or not subject.config.gaff.track:
        return
    problems = tracker_problems(subject.config)
    yield from (from_problem(AREA, problem) for problem in problems)
    if not problems:
        named = ", ".join(subject.config.gaff.track)
        yield Finding("trackers", AREA, "ok", f"metrics can be sent to {named}")
