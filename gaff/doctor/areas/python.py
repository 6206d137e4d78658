# SPDX-License-Identifier: Apache-2.0
"""GAFF's own Python and packages, and the Python that GPT-NeoX runs in."""

from __future__ import annotations

import importlib.metadata as metadata
import re
import shlex
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from gaff import __version__
from gaff.doctor.finding import Finding
from gaff.doctor.neox_python import NeoxPython, requirement
from gaff.doctor.probes import Version, said, version_in
from gaff.doctor.subject import Subject
from gaff.trainers.neox.interpreter import NEEDED
from gaff.trainers.neox.versions import NEWEST_PYTHON, OLDEST_PYTHON

AREA = "Python"
_OPTIONAL = ("isal",)  # without it zlib does the same, slower
_REQUIREMENT = re.compile(r"^(?P<name>[A-Za-z0-9._-]+)(?P<pins>[^;]*)(?:;(?P<marker>.*))?$")


@dataclass(frozen=True)
class PythonFacts:
    """Attributes:
    python: GAFF's own.
    lacking: GAFF's requirements that are not met, as pip takes them.
    bundled: the same for the bundled trainer; None where it is not asked for.
    neox: GPT-NeoX's Python; None where it is not looked at.
    named_by: what names that: gaff.neox_python or GPT_NEOX_PYTHON; None where nothing does.
    install: the command that makes an environment for GPT-NeoX.
    """

    executable: str
    python: Version
    lacking: tuple[str, ...]
    bundled: tuple[str, ...] | None
    neox: NeoxPython | None
    named_by: str | None = None
    install: str = "gaff neox install"


def examine(subject: Subject) -> Iterator[Finding]:
    yield from judge(gather(subject))


def gather(subject: Subject) -> PythonFacts:
    looked_at = subject.trainer == "neox" and subject.neox_dir is not None and not subject.contained
    return PythonFacts(
        executable=sys.executable,
        python=tuple(sys.version_info[:3]),
        lacking=tuple(unmet(_requirements(None))),
        bundled=tuple(unmet(_requirements("bundled"))) if subject.trainer == "bundled" else None,
        neox=subject.python if looked_at else None,
        named_by=subject.python_named_by,
        install=subject.install(for_checkout=True),
    )


def judge(facts: PythonFacts) -> Iterator[Finding]:
    pip = f"{shlex.quote(facts.executable)} -m pip install"
    needed = [one for one in facts.lacking if not one.startswith(_OPTIONAL)]
    if needed:
        what = f"GAFF's own packages are missing or too old: {', '.join(needed)}"
        yield Finding("gaff-packages", AREA, "problem", what, f"{pip} {shlex.join(needed)}")
    else:
        what = f"GAFF {__version__} on Python {said(facts.python)} ({facts.executable})"
        yield Finding("gaff", AREA, "ok", what)
    slower = [one for one in facts.lacking if one.startswith(_OPTIONAL)]
    if slower:
        what = "isal is not installed: checksums of checkpoints are computed by zlib, several times slower"
        yield Finding("gaff-isal", AREA, "note", what, f"{pip} {shlex.join(slower)}")
    if facts.bundled:
        what = f"the bundled trainer lacks {', '.join(facts.bundled)}"
        yield Finding("bundled-packages", AREA, "problem", what, f"{pip} {shlex.join(facts.bundled)}")
    elif facts.bundled is not None:
        yield Finding("bundled-packages", AREA, "ok", "the bundled trainer's packages are there")
    if facts.neox is not None:
        yield from _neox(facts.neox, _other_python(facts), facts.install)


def _other_python(facts: PythonFacts) -> str:
    """The command after which another Python is taken: what names one wins over what is installed."""
    if facts.named_by is None:
        return f"{facts.install}  # or name another: export GPT_NEOX_PYTHON=PATH"
    if facts.named_by == "GPT_NEOX_PYTHON":
        return f"unset GPT_NEOX_PYTHON  # or name another; one of its own makes: {facts.install}"
    return f"-o {facts.named_by}=null  # or name another; one of its own makes: {facts.install}"


def _neox(neox: NeoxPython, other: str, install: str) -> Iterator[Finding]:
    found = neox.interpreter
    if found is None:
        what = f"the Python for GPT-NeoX, {neox.command}, does not run ({neox.trouble})"
        yield Finding("neox-python", AREA, "problem", what, other)
        return
    if not OLDEST_PYTHON <= found.python[:2] <= NEWEST_PYTHON:
        wanted = f"{said(OLDEST_PYTHON)} to {said(NEWEST_PYTHON)}"
        what = f"GPT-NeoX's Python is {said(found.python)}; its packages have wheels for {wanted}"
        remedy = f"{install} --python python{said(NEWEST_PYTHON)}"
        yield Finding("neox-python-version", AREA, "warning", what, remedy)
    else:
        what = f"GPT-NeoX's Python is {said(found.python)} ({found.executable})"
        yield Finding("neox-python", AREA, "ok", what)
    if found.missing:
        lacking = [NEEDED[name] for name in found.missing]
        what = f"GPT-NeoX's Python lacks {', '.join(lacking)}"
        wanted = shlex.join(requirement(name) for name in lacking)
        remedy = f"{shlex.quote(neox.command)} -m pip install {wanted}  # or: {install}"
        if neox.is_own:
            what += "; it is GAFF's own, whose packages clash with them"
            remedy = other
        yield Finding("neox-packages", AREA, "problem", what, remedy)


def _requirements(extra: str | None) -> list[str]:
    """GAFF's own requirements, as its metadata lists them."""
    try:
        return [line for line in metadata.requires("gaff") or [] if _belongs(line, extra)]
    except metadata.PackageNotFoundError:  # run from its source directory
        return []


def _belongs(line: str, extra: str | None) -> bool:
    marker = line.partition(";")[2]
    named = re.search(r"extra\s*==\s*['\"]([^'\"]+)['\"]", marker)
    return (named[1] if named else None) == extra


def unmet(requirements: Iterable[str], installed: dict[str, str] | None = None) -> Iterator[str]:
    """Those requirements (``name>=1.2``, without marker) that no installed distribution meets.

    Args:
        requirements: lines of a distribution's metadata.
        installed: name -> version; None for what this Python has.
    """
    for line in requirements:
        match = _REQUIREMENT.match(line.strip())
        if match is None:
            continue
        name, pins = match["name"], match["pins"].strip().strip("()").replace(" ", "")
        version = _version(name) if installed is None else installed.get(name)
        if version is None or not all(_meets(version_in(version), pin) for pin in filter(None, pins.split(","))):
            yield name + pins


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def _meets(version: Version, pin: str) -> bool:
    wanted = pin.lstrip("<>=!~")
    operator, bound = pin[: len(pin) - len(wanted)], version_in(wanted)
    width = max(len(version), len(bound))
    mine, other = (v + (0,) * (width - len(v)) for v in (version, bound))
    return {">=": mine >= other, "==": mine == other, "<": mine < other, ">": mine > other}.get(operator, True)
