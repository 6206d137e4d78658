# SPDX-License-Identifier: Apache-2.0
"""``gaff neox install``: unmodified GPT-NeoX at one commit, in an environment of its own.

The work is a list of steps.  Each says what it is done for and whether that still holds, and is put on record when it
is done, so the same command does only what is lacking, also after it was killed at any moment.
"""

from __future__ import annotations

import shlex
import shutil
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from gaff.errors import InputError, Problem
from gaff.trainers.neox.checkout import Checkout
from gaff.trainers.neox.home import (
    FAMILY,
    SHORT_COMMIT,
    Installation,
    default_home,
    directory_name,
    expanded,
    installations,
)
from gaff.trainers.neox.install_build import HelperStep, OpsStep, ProofStep
from gaff.trainers.neox.install_checks import (
    MB,
    check_place,
    check_room,
    check_tools,
    choose_python,
    existing_parent,
)
from gaff.trainers.neox.install_environment import EnvironmentStep, PackagesStep, version_text
from gaff.trainers.neox.install_site import CHECKOUT_NAME, Say, Site
from gaff.trainers.neox.install_source import Source, SourceStep, resolve
from gaff.trainers.neox.versions import CLONE_MB, OLDEST_PYTHON, PINNED_COMMIT, package_set


class Step(Protocol):
    """One step.

    Attributes:
        name: in the record.
        aim: what it does, as an imperative clause.
    """

    name: str
    aim: str

    def wanted(self) -> dict[str, Any]:
        """What it is done for now; done for something else, it is done again."""
        ...

    def holds(self) -> bool:
        """Whether what it made is there.  Only asked when it is on record as done."""
        ...

    def perform(self) -> Mapping[str, Any]:
        """Do it.  Returns facts for the record.  Raises GaffError when it does not succeed."""
        ...


@dataclass(frozen=True)
class Request:
    """What the command line asks for.

    Attributes:
        home: where to install; None for :func:`~gaff.trainers.neox.home.default_home`.
        ref, source: see :func:`~gaff.trainers.neox.install_source.resolve`.
        cpu: the packages that run without a GPU.
        python: what to make the environment of.
        torch: requirement of torch, and pip options after it.
    """

    home: Path | None = None
    ref: str | None = None
    source: str | None = None
    cpu: bool = False
    python: str | None = None
    torch: str | None = None


class Install:
    """One installation, looked at and, if asked, done.

    Raises:
        InputError: it cannot succeed here; nothing was written or fetched.
    """

    def __init__(self, request: Request) -> None:
        self.home = expanded(request.home) if request.home else default_home()
        _raise(list(check_place(self.home)))
        self.source = self._source(request)
        root = self.home / FAMILY / directory_name(self.source.commit, request.cpu)
        checkout = Path(self.source.location) if self.source.in_place else root / CHECKOUT_NAME
        self.site = Site(root, checkout, self.source.commit, request.cpu)
        self.packages = package_set(request.cpu)
        self.torch = self._torch(request)
        oldest = OLDEST_PYTHON if request.torch else self.packages.oldest_python
        self.foundation = choose_python(request.python, oldest)
        self.steps = self._steps(chosen=request.python is not None)
        self.lacking = [step for step in self.steps if not self._done(step)]
        self._check()

    def _source(self, request: Request) -> Source:
        """As asked; where nothing is asked and the pinned commit is installed from elsewhere, from there again."""
        if request.source is None and request.ref is None:
            root = self.home / FAMILY / directory_name(PINNED_COMMIT, request.cpu)
            for present in installations(self.home):
                elsewhere = present.root == root and present.checkout != root / CHECKOUT_NAME
                if elsewhere and Checkout(present.checkout).commit == PINNED_COMMIT:
                    return Source(str(present.checkout), PINNED_COMMIT, in_place=True)
        return resolve(request.source, request.ref)

    def _torch(self, request: Request) -> list[str]:
        if request.torch is not None:
            remedy = f"name one, as {self.packages.torch}"
            try:
                words = shlex.split(request.torch)
            except ValueError as error:
                what = f"--torch {request.torch} cannot be read as a shell does ({error})"
                raise InputError(Problem("no-torch", what, remedy)) from None
            if not any("torch" in word for word in words):
                raise InputError(Problem("no-torch", "--torch names no torch", remedy))
            return words
        present = self.site.wanted("torch")
        return present["requirements"] if present else [self.packages.torch]

    def _steps(self, chosen: bool) -> list[Step]:
        site, extra = self.site, self.packages
        first: list[Step] = [
            SourceStep(site, self.source),
            EnvironmentStep(site, self.foundation, chosen),
            PackagesStep(site, "torch", self.torch, needed=("torch",)),
            PackagesStep(site, "requirements", extra.packages, extra.requirements_file, beside="torch"),
        ]
        helper: list[Step] = [] if site.in_place else [HelperStep(site)]
        ops: list[Step] = [OpsStep(site)] if site.cpu else []
        return [*first, *helper, *ops, ProofStep(site)]

    def _done(self, step: Step) -> bool:
        return self.site.wanted(step.name) == step.wanted() and step.holds()

    def _lacks(self, name: str) -> bool:
        return any(step.name == name for step in self.lacking)

    @property
    def clones(self) -> bool:
        return self._lacks("source") and not self.source.in_place

    @property
    def fetches_packages(self) -> bool:
        return any(map(self._lacks, ("environment", "torch", "requirements")))

    def _check(self) -> None:
        if not self.lacking:
            return
        problems = list(check_tools(self.foundation, self.clones))
        fetches = self.fetches_packages
        disk_mb = CLONE_MB * self.clones + self.packages.disk_mb * fetches
        problems += check_room(self.home, disk_mb, self.packages.download_mb * fetches)
        _raise(problems)

    def notice(self) -> str:
        """What will be fetched, from where, how much of it, and where it goes."""
        commit = self.source.commit[:SHORT_COMMIT] if self.source.commit else "of no known commit"
        title = f"GPT-NeoX {commit} with the packages for {'the CPU' if self.site.cpu else 'GPUs'}, in {self.site.root}"
        lines = [title]
        if not self.lacking:
            return f"{title}: everything is in place"
        if self.source.in_place:
            lines.append(f"  use      {self.source.location} where it is; nothing is written there")
        if self.clones:
            lines.append(f"  fetch    GPT-NeoX with its history from {self.source}: about {CLONE_MB} MB")
        if self.fetches_packages:
            lines += self._notice_of_packages()
        if self._lacks("environment"):
            python = version_text(self.foundation.python)
            lines.append(f"  make     an environment of Python {python} ({self.foundation.executable})")
        compiled = [step.aim.removeprefix("compile ") for step in self.lacking if step.aim.startswith("compile ")]
        if compiled:
            lines.append(f"  compile  {' and '.join(compiled)}")
        free = shutil.disk_usage(existing_parent(self.home)).free / MB
        lines.append(f"  free     {free:,.0f} MB of disk where it goes")
        return "\n".join(lines)

    def _notice_of_packages(self) -> list[str]:
        packages = self.packages
        torch = next((word for word in self.torch if word.startswith("torch")), "torch")
        listed = [torch, *([packages.requirements_file] if packages.requirements_file else []), *packages.packages]
        size = f"about {packages.download_mb:,} MB, {packages.disk_mb:,} MB installed ({packages.measured})"
        lines = [
            f"  fetch    packages from the Python package index that pip uses: {size}",
            f"           {', '.join(listed)}",
        ]
        if packages.requirements_file:
            lines.append("           and from the git repositories that GPT-NeoX's list names")
        if self.torch == [packages.torch]:
            lines.append(
                f"           where that index has {torch} with CUDA, it is gigabytes more: see --torch"
                if self.site.cpu
                else f"           {torch} was not tried here on a GPU; another with --torch"
            )
        return lines

    def perform(self, say: Say) -> Installation:
        """Do what is lacking.

        Args:
            say: is told a line before and after each step.

        Raises:
            GaffError: a step did not succeed; the same command carries on.
        """
        with self.site.held(say):
            for number, step in enumerate(self.steps, 1):
                if not self._done(step):
                    self._perform(step, f"{number}/{len(self.steps)}", say)
            if self.site.completed is None:
                self.site.complete()
        return next(found for found in installations(self.home) if found.root == self.site.root)

    def _perform(self, step: Step, number: str, say: Say) -> None:
        say(f"{number} {step.aim} …")
        self.site.begin(step.name)
        wanted, started = step.wanted(), time.monotonic()
        self.site.finish(step.name, wanted, step.perform())
        say(f"{number} done in {time.monotonic() - started:.0f} s")


def _raise(problems: list[Problem]) -> None:
    if problems:
        raise InputError(problems)
