# SPDX-License-Identifier: Apache-2.0
"""For a run in a container: its engine and its image.  What is inside the image is not examined."""

from __future__ import annotations

import os
import shlex
from collections.abc import Iterator
from dataclasses import dataclass

from gaff.doctor.finding import Finding
from gaff.doctor.probes import Tool, run, said, tool
from gaff.doctor.subject import Subject
from gaff.plan.settings import ContainerSettings

AREA = "container"
_HOW = {
    "apptainer": "module load apptainer  # or: conda install -c conda-forge apptainer",
    "docker": "# Docker needs root to install; write engine: apptainer, which does not",
}


@dataclass(frozen=True)
class ContainerFacts:
    """Attributes:
    answers: why the engine's daemon does not answer this user; None when it does, or there is none.
    image: whether the image is here; None where that is not known.
    """

    settings: ContainerSettings
    engine: Tool | None
    answers: str | None
    image: bool | None


def examine(subject: Subject) -> Iterator[Finding]:
    settings = subject.config.gaff.container if subject.config else None
    if settings is not None and subject.contained:
        yield from judge(gather(subject, settings))


def gather(subject: Subject, settings: ContainerSettings) -> ContainerFacts:
    engine = tool(settings.engine, subject.environment)
    if settings.engine == "apptainer":
        image = None if "://" in settings.image else os.path.exists(settings.image)
        return ContainerFacts(settings, engine, None, image)
    if engine is None:
        return ContainerFacts(settings, None, None, None)
    daemon = run([engine.path, "info"], environment=subject.environment)
    if not daemon.good:
        return ContainerFacts(settings, engine, daemon.last_word, None)
    found = run([engine.path, "image", "inspect", settings.image], environment=subject.environment)
    return ContainerFacts(settings, engine, None, found.good)


def judge(facts: ContainerFacts) -> Iterator[Finding]:
    settings = facts.settings
    if facts.engine is None:
        what = f"the container's engine, {settings.engine}, is not on PATH"
        yield Finding("container-engine", AREA, "problem", what, _HOW[settings.engine])
        return
    if facts.answers is not None:
        what = f"{settings.engine} does not answer this user: {facts.answers}"
        yield Finding("container-engine", AREA, "problem", what, "groups  # docker must be among them")
        return
    yield Finding("container-engine", AREA, "ok", f"{settings.engine} {said(facts.engine.version)}")
    if facts.image is False and settings.engine == "apptainer":
        what = f"the image {settings.image} is not there"
        remedy = f"apptainer build {shlex.quote(settings.image)} docker-daemon://IMAGE  # or from a definition file"
        yield Finding("container-image", AREA, "problem", what, remedy)
    elif facts.image is False:
        what = f"the image {settings.image} is not on this machine"
        yield Finding("container-image", AREA, "warning", what, f"docker pull {shlex.quote(settings.image)}")
    note = "what is inside the image is not examined from outside"
    yield Finding("container-inside", AREA, "note", note, f"{_inside(settings)} -m gaff doctor  # where GAFF is in it")


def _inside(settings: ContainerSettings) -> str:
    start = "apptainer exec --nv" if settings.engine == "apptainer" else "docker run --rm --gpus all"
    return f"{start} {shlex.quote(settings.image)} {shlex.quote(settings.python)}"
