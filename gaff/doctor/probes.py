# SPDX-License-Identifier: Apache-2.0
"""Questions to the system, answered within a time limit.  Nothing here raises for what it finds missing."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

_TIMEOUT_S = 20.0
Version = tuple[int, ...]


@dataclass(frozen=True)
class Answer:
    """Attributes:
    code: exit code; None when the program could not be started or did not answer in time.
    out, err: what it said; for None, ``err`` says why.
    """

    code: int | None
    out: str = ""
    err: str = ""

    @property
    def good(self) -> bool:
        return self.code == 0

    @property
    def last_word(self) -> str:
        """The last line of what it complained about."""
        said = (self.err.strip() or self.out.strip()).splitlines()
        return said[-1].strip() if said else f"exit code {self.code}"


@dataclass(frozen=True)
class Tool:
    """A program on PATH.

    Attributes:
        path: where it is.
        version: what it calls itself; empty when it does not say.
        trouble: why it does not work; None when it does.
    """

    path: str
    version: Version = ()
    trouble: str | None = None


def run(
    command: Sequence[str],
    *,
    environment: Mapping[str, str] | None = None,
    given: str = "",
    timeout_s: float = _TIMEOUT_S,
) -> Answer:
    """Run a program with ``given`` on its standard input."""
    try:
        done = subprocess.run(
            list(command),
            input=given,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=timeout_s,
            env=None if environment is None else dict(environment),
        )
    except subprocess.TimeoutExpired:
        return Answer(None, err=f"no answer within {timeout_s:.0f} s")
    except OSError as error:
        return Answer(None, err=error.strerror or str(error))
    return Answer(done.returncode, done.stdout, done.stderr)


def which(name: str, environment: Mapping[str, str]) -> str | None:
    """Where a program of this name is on the PATH of ``environment``."""
    return shutil.which(name, path=environment.get("PATH", os.defpath))


def version_in(text: str) -> Version:
    """The first ``1.2`` or ``1.2.3`` in a text; a bare number only when nothing else is there."""
    found = re.search(r"\d+(?:\.\d+)+", text) or re.fullmatch(r"\s*\d+\s*", text)
    return tuple(int(part) for part in found[0].split(".")) if found else ()


def said(version: Version) -> str:
    return ".".join(str(part) for part in version)


def tool(name: str, environment: Mapping[str, str], *ask: str) -> Tool | None:
    """The program ``name`` and its version, for which it is started with ``ask``; None when it is not on PATH."""
    path = which(name, environment)
    if path is None:
        return None
    answer = run([path, *(ask or ("--version",))], environment=environment)
    if not answer.good:
        return Tool(path, trouble=answer.last_word)
    return Tool(path, version_in(answer.out or answer.err))
