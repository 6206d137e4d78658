# SPDX-License-Identifier: Apache-2.0
"""Every area, one after the other.  What fails in one becomes a finding of that area and stops no other."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Iterator
from dataclasses import replace

from gaff.doctor.areas import (
    compilers,
    container,
    data,
    extensions,
    gpus,
    launcher,
    memory,
    neox,
    ports,
    python,
    storage,
    system,
    trackers,
)
from gaff.doctor.finding import SCHEMA, Finding, worst
from gaff.doctor.subject import Subject
from gaff.errors import GaffError
from gaff.plan.typed import integer

_MODULES = (
    python,
    neox,
    container,
    compilers,
    extensions,
    gpus,
    memory,
    launcher,
    ports,
    storage,
    data,
    trackers,
    system,
)
#: Area -> what examines it, in the order of the report.
AREAS: dict[str, Callable[[Subject], Iterator[Finding]]] = {module.AREA: module.examine for module in _MODULES}


def examine(subject: Subject) -> list[Finding]:
    """All findings, area by area."""
    return [finding for area in AREAS for finding in examine_area(area, subject)]


def examine_area(area: str, subject: Subject) -> Iterator[Finding]:
    """The findings of one area; the last one is its failure, if it fails."""
    try:
        for finding in AREAS[area](subject):
            yield _complete(finding, subject)
    except GaffError as error:
        yield Finding("examination-failed", area, "warning", f"this could not be examined: {error.problems[0].what}")
    except Exception as error:  # whatever is wrong with this machine, the other areas are still worth knowing
        what = f"this could not be examined ({type(error).__name__}: {error})"
        yield Finding("examination-failed", area, "warning", what)


def to_json(findings: list[Finding]) -> dict[str, object]:
    """The report as plain JSON values.  ``schema`` changes when a key changes its meaning or goes away."""
    return {"schema": SCHEMA, "worst": worst(findings), "findings": [finding.to_json() for finding in findings]}


def _complete(finding: Finding, subject: Subject) -> Finding:
    """Remedies that are overrides (``-o key=value``) as whole commands, ``FILE`` and ``LAYERS`` as the config's own."""
    if finding.remedy is None:
        return finding
    words = [word for path in (subject.config.sources if subject.config else ()) for word in ("--config", str(path))]
    words += [word for override in subject.overrides for word in ("-o", override)]
    given = shlex.join(words) or "--config FILE"
    lines = [f"gaff run {given} {line}" if line.startswith("-o ") else line for line in finding.remedy.splitlines()]
    layers = integer(subject.config, "num_layers") if subject.config else None
    remedy = "\n".join(lines).replace("--config FILE", given).replace("LAYERS", str(layers or "LAYERS"))
    return replace(finding, remedy=remedy)
