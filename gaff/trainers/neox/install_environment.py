# SPDX-License-Identifier: Apache-2.0
"""The Python environment of an installation: made with ``venv``, filled with pip, mended when pip was killed."""

from __future__ import annotations

import csv
import hashlib
import shutil
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from gaff.trainers.neox.install_site import CommandError, Site, without_credentials
from gaff.trainers.neox.interpreter import NEEDED, Foundation, ask, ask_distributions

_PIP = ("-m", "pip", "--no-input", "--disable-pip-version-check", "install", "--progress-bar", "off")


class EnvironmentStep:
    """Make the virtual environment.  One that was not finished is made anew.

    Args:
        foundation: the Python to make it of.
        chosen: whether the user named that Python; else an environment of another version stays.
    """

    name = "environment"

    def __init__(self, site: Site, foundation: Foundation, chosen: bool) -> None:
        self.site, self.foundation, self.chosen = site, foundation, chosen
        self.aim = f"make an environment of Python {version_text(foundation.python)}"

    def wanted(self) -> dict[str, Any]:
        present = self.site.wanted(self.name)
        return present if present and not self.chosen else {"python": version_text(self.foundation.python)}

    def holds(self) -> bool:
        try:
            found = ask(self.site.python, isolated=True)
        except OSError:
            return False
        return self.wanted() == {"python": version_text(found.python)}

    def perform(self) -> Mapping[str, Any]:
        shutil.rmtree(self.site.env, ignore_errors=True)
        try:
            self.site.run([self.foundation.executable, "-m", "venv", str(self.site.env)])
        except CommandError as error:
            remedy = "name another Python with --python"
            raise self.site.failed(self.name, "the environment could not be made", str(error), remedy) from None
        # GPT-NeoX's Makefile asks the python3-config of PATH, which may be that of another Python.
        if self.foundation.config_script.is_file():
            (self.site.env / "bin" / "python3-config").symlink_to(self.foundation.config_script)
        return {"made_of": self.foundation.executable}


class PackagesStep:
    """Install packages with pip.

    Args:
        name: of the step.
        requirements: pip's arguments: requirements, and options where the user gave any.
        file: a list of requirements in the checkout.
        beside: an earlier step that installed the distribution of the same name, which must stay as it is.
        needed: modules that must be there once this is done.
    """

    def __init__(
        self,
        site: Site,
        name: str,
        requirements: Sequence[str],
        file: str | None = None,
        beside: str | None = None,
        needed: Collection[str] = NEEDED,
    ) -> None:
        self.site, self.name, self.requirements, self.needed = site, name, tuple(requirements), needed
        self.beside, self.file = beside, None if file is None else site.checkout / file
        listed = [*([file] if file else []), *self.requirements]
        self.aim = without_credentials(f"install {', '.join(listed)}")

    def wanted(self) -> dict[str, Any]:
        wanted: dict[str, Any] = {"requirements": list(self.requirements)}
        if self.file is not None and self.file.is_file():
            wanted["file_sha256"] = hashlib.sha256(self.file.read_bytes()).hexdigest()
        return wanted

    def holds(self) -> bool:
        """Whether all that was there when the step was done still is.  What was added or updated by hand is left."""
        try:
            present = ask_distributions(self.site.python)
            missing = self._missing()
        except OSError:
            return False
        return not missing and set(self.site.facts(self.name)["versions"]) <= set(present)

    def perform(self) -> Mapping[str, Any]:
        mend(self.site.env)
        listed = [] if self.file is None else ["--requirement", str(self.file)]
        try:
            self.site.run([self.site.python, *_PIP, *listed, *self.requirements, *self._kept()])
        except CommandError as error:
            remedy = (
                "see pip's words there; it may be the network, a version that the index lacks, or a missing library"
            )
            raise self.site.failed(self.name, f"pip could not {self.aim}", str(error), remedy) from None
        missing = self._missing()
        if missing:
            names = ", ".join(NEEDED[module] for module in missing)
            remedy = f"install them with `{self.site.python} -m pip install`"
            raise self.site.failed(self.name, "after pip was done GPT-NeoX still lacks packages", names, remedy)
        return {"versions": ask_distributions(self.site.python)}

    def _missing(self) -> list[str]:
        return [module for module in ask(self.site.python, isolated=True).missing if module in self.needed]

    def _kept(self) -> list[str]:
        """As installed, without the options with which it was found: an index for torch alone has nothing else."""
        if self.beside is None:
            return []
        return [f"{self.beside}=={self.site.facts(self.beside)['versions'][self.beside]}"]


def mend(env: Path) -> None:
    """Take away what a killed pip left half installed, so that pip installs it again.

    Of a distribution pip writes the files first, and last of all its final ``RECORD``, which lists them with their
    sizes (in bytes) and names pip as the installer.  Without that, or with files missing, it is half installed.
    """
    for packages in env.glob("lib/python*/site-packages"):
        for left in packages.glob("~*"):  # what pip had set aside to replace it
            _remove(left)
        for description in packages.glob("*.dist-info"):
            if not _whole(description):
                _remove(description)


def _whole(description: Path) -> bool:
    try:
        rows = list(_rows(description / "RECORD"))
    except (OSError, ValueError, csv.Error):
        return False
    listed = {name for name, _ in rows}
    return f"{description.name}/INSTALLER" in listed and all(
        _has_size(description.parent / name, size) for name, size in rows
    )


def _rows(record: Path) -> Iterator[tuple[str, int | None]]:
    with open(record, newline="", encoding="utf-8") as file:
        for row in csv.reader(file):
            if row and not row[0].endswith(".pyc"):
                yield row[0], int(row[2]) if len(row) > 2 and row[2] else None


def _has_size(path: Path, size: int | None) -> bool:
    try:
        return size is None or path.stat().st_size == size
    except OSError:
        return False


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink()


def version_text(version: Sequence[int]) -> str:
    return ".".join(map(str, version))
