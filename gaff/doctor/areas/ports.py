# SPDX-License-Identifier: Apache-2.0
"""The TCP port at which the ranks meet."""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from dataclasses import dataclass

from gaff.doctor.finding import Finding
from gaff.doctor.subject import EMPTY, Subject
from gaff.errors import GaffError
from gaff.plan.typed import integer, word
from gaff.supervisor.ports import reserve_port
from gaff.trainers.neox.launchers import MPI, MPI_PORT

AREA = "ports"
_USUAL = 29500  # GPT-NeoX's default of master_port


@dataclass(frozen=True)
class PortFacts:
    """Attributes:
    port: that the config asks for.
    asked: whether the config names it.
    free: whether nothing listens on it and no other run of GAFF holds it.
    fixed: whether the launcher takes no other.
    variable: MASTER_PORT of this shell; None where it has an effect or a rule of the plan tells of it.
    """

    port: int
    asked: bool
    free: bool
    fixed: bool
    variable: str | None


def examine(subject: Subject) -> Iterator[Finding]:
    yield from judge(gather(subject))


def gather(subject: Subject) -> PortFacts:
    config = subject.config or EMPTY
    fixed = subject.trainer == "neox" and word(config, "launcher") in MPI
    given = integer(config, "master_port")
    port = MPI_PORT if fixed else given or _USUAL
    try:
        with reserve_port("gaff-doctor", port, fixed=True):
            free = True
    except GaffError:
        free = False
    variable = None if subject.config else subject.environment.get("MASTER_PORT")
    return PortFacts(port, given is not None, free, fixed, variable)


def judge(facts: PortFacts) -> Iterator[Finding]:
    who = f"ss -ltnp 'sport = :{facts.port}'  # shows whose it is; end that"
    if facts.free:
        yield Finding("port", AREA, "ok", f"port {facts.port} is free")
    elif facts.fixed:
        what = f"port {facts.port} is taken, and under MPI the ranks meet at no other"
        yield Finding("port", AREA, "problem", what, who)
    else:
        what = f"port {facts.port} is taken; GAFF finds another for its run, GPT-NeoX started by hand would not"
        yield Finding("port", AREA, "warning" if facts.asked else "note", what, who)
    if facts.variable:
        what = f"MASTER_PORT={facts.variable} in the environment has no effect: GPT-NeoX takes `master_port`"
        yield Finding("master-port-variable", AREA, "note", what, f"-o {shlex.quote(f'master_port={facts.variable}')}")
