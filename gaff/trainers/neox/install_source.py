# SPDX-License-Identifier: Apache-2.0
"""GPT-NeoX itself: which commit, from where, cloned or used in place."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gaff.errors import GaffError, InputError, Location, Problem
from gaff.trainers.neox.checkout import Checkout
from gaff.trainers.neox.home import expanded
from gaff.trainers.neox.install_site import CommandError, Site, decisive_lines, without_credentials
from gaff.trainers.neox.versions import PINNED_COMMIT, REPOSITORY

_FULL_COMMIT = re.compile(r"[0-9a-f]{40}")
_URL = re.compile(r"[a-z][a-z0-9+.-]*://|[^/\s]+:")  # https://host/path, or git's short user@host:path
_LOOK_TIMEOUT_S = 60.0


@dataclass(frozen=True)
class Source:
    """Where GPT-NeoX comes from.

    Attributes:
        location: URL or absolute path.
        commit: in full; None for a tree without git, which can only be used in place.
        in_place: an existing work tree that is used where it is.
    """

    location: str
    commit: str | None
    in_place: bool

    def __str__(self) -> str:
        return without_credentials(self.location)


def resolve(named: str | None, ref: str | None) -> Source:
    """Where GPT-NeoX is to come from.

    Args:
        named: a URL, a git directory, or a work tree; None for GPT-NeoX's own repository.
        ref: a commit, branch or tag; None for the pinned commit, or for a work tree as it is.

    Raises:
        InputError: there is no such source, or no such commit in it.
    """
    if ref is not None and _FULL_COMMIT.fullmatch(ref.lower()):
        ref = ref.lower()
    path = expanded(Path(named)) if named else None
    if path is not None and path.exists():
        if ref is None and Checkout(path).problem() is None:
            return Source(str(path), Checkout(path).commit, in_place=True)
        return Source(str(path), _local_commit(path, ref), in_place=False)
    location = named or REPOSITORY
    if not _URL.match(location):
        what = "there is no such directory, and it is no URL either"
        raise InputError(Problem("no-source", what, "name a GPT-NeoX checkout or git repository", Location(location)))
    return Source(location, _remote_commit(location, ref), in_place=False)


def _local_commit(path: Path, ref: str | None) -> str:
    where = Location(str(path))
    if _look(["-C", str(path), "rev-parse", "--git-dir"])[0]:
        what = "is neither a GPT-NeoX checkout nor a git repository"
        raise InputError(Problem("no-source", what, "name one of them, or leave --source out", where))
    code, commit = _look(["-C", str(path), "rev-parse", "--verify", "--quiet", f"{ref or PINNED_COMMIT}^{{commit}}"])
    if code:
        raise InputError(_no_commit(ref or PINNED_COMMIT, where))
    return commit


def _remote_commit(url: str, ref: str | None) -> str:
    if ref is None or _FULL_COMMIT.fullmatch(ref):
        return ref or PINNED_COMMIT
    code, answer = _look(["ls-remote", "--", url, f"refs/heads/{ref}", f"refs/tags/{ref}", f"refs/tags/{ref}^{{}}"])
    where = Location(without_credentials(url))
    if code:
        what = f"the repository does not answer: {decisive_lines(answer)}"
        raise InputError(
            Problem("no-source", what, "check the URL and the network, or name a copy with --source", where)
        )
    commits = [line.split()[0] for line in answer.splitlines() if _FULL_COMMIT.match(line)]
    if not commits:
        raise InputError(_no_commit(ref, where))
    return commits[-1]  # of an annotated tag git lists the tag first, then the commit it stands for


def _no_commit(ref: str, where: Location) -> Problem:
    remedy = "name a branch, a tag, or a commit with all its 40 digits in --ref"
    return Problem("no-such-commit", f"there is no commit {ref} in this repository", remedy, where)


def _look(arguments: list[str]) -> tuple[int, str]:
    environment = {**os.environ, "GIT_TERMINAL_PROMPT": "0"}
    environment = {name: value for name, value in environment.items() if name not in ("GIT_DIR", "GIT_WORK_TREE")}
    command = ["git", "-c", "safe.directory=*", *arguments]
    try:
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=_LOOK_TIMEOUT_S)
    except FileNotFoundError:
        what, remedy = "there is no `git` here", "install git, or load its module"
        raise InputError(Problem("no-git", what, remedy)) from None
    except subprocess.TimeoutExpired:
        return 1, f"no answer within {_LOOK_TIMEOUT_S:.0f} s"
    return done.returncode, done.stdout.strip() if done.returncode == 0 else done.stderr.strip()


class SourceStep:
    """Clone GPT-NeoX, or make sure that the checkout to be used in place is there."""

    name = "source"

    def __init__(self, site: Site, source: Source) -> None:
        self.site, self.source = site, source
        self.aim = f"{'use' if source.in_place else 'clone'} GPT-NeoX from {source}"

    def wanted(self) -> dict[str, Any]:
        return {"commit": self.source.commit, "checkout": str(self.site.checkout)}

    def holds(self) -> bool:
        """Whether it is there.

        Raises:
            GaffError: the clone was moved to another commit.  What was done there is not GAFF's to lose.
        """
        checkout = Checkout(self.site.checkout)
        if self.source.in_place or not checkout.root.exists():
            return checkout.problem() is None
        if checkout.commit != self.source.commit:
            what = f"was at commit {self.source.commit} when it was installed, and is at {checkout.commit} now"
            remedy = f"run `git -C {checkout.root} checkout {self.source.commit}`, or remove this directory"
            raise GaffError(Problem("checkout-moved", what, remedy, Location(str(checkout.root))))
        return checkout.problem() is None

    def perform(self) -> Mapping[str, Any]:
        if not self.source.in_place:
            self._clone()
        checkout = Checkout(self.site.checkout)
        problem = checkout.problem()
        if problem:
            raise GaffError(problem)
        return {"from": str(self.source), "commit": checkout.commit, "changes": list(checkout.changes or ())}

    def _clone(self) -> None:
        target, commit = self.site.checkout, self.source.commit
        assert commit is not None
        shutil.rmtree(target, ignore_errors=True)  # a clone that was not finished
        remedy = "check the network and the source, or name a copy with --source"
        try:
            self.site.run(["git", "clone", "--quiet", "--no-checkout", "--", self.source.location, str(target)])
        except CommandError as error:
            raise self.site.failed(self.name, "GPT-NeoX could not be cloned", str(error), remedy) from None
        if _look(["-C", str(target), "cat-file", "-e", f"{commit}^{{commit}}"])[0]:
            shutil.rmtree(target, ignore_errors=True)
            raise InputError(_no_commit(commit, Location(str(self.source))))
        try:
            self.site.run(["git", "-C", str(target), "checkout", "--quiet", "--detach", commit])
        except CommandError as error:
            raise self.site.failed(self.name, f"commit {commit} could not be checked out", str(error), remedy) from None
        found = Checkout(target).commit
        if found != commit:
            raise self.site.failed(self.name, f"commit {commit} was asked for", f"git checked out {found}", remedy)
