# SPDX-License-Identifier: Apache-2.0
"""The recipes of the images, read: versions.env, Dockerfile and gaff.def, as far as they have to agree."""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

#: Sections of a definition file that Apptainer knows and gaff.def may have.
SECTIONS = ("arguments", "files", "post", "environment", "test", "labels", "runscript", "help")
#: Those that a shell runs.
SCRIPTS = ("post", "environment", "test", "runscript")
STEP = re.compile(r"^(?:RUN\s+)?/opt/image/steps/([\w-]+\.sh)$")
_ARGUMENT = re.compile(r"\{\{\s*(\w+)\s*\}\}")


class RecipeError(Exception):
    """A recipe cannot be read; the text says where and why."""


def read_versions(path: Path) -> dict[str, str]:
    """KEY -> value of versions.env, ``${KEY}`` of an earlier line put in.

    Raises:
        RecipeError: a line is neither a comment nor ``KEY="value"``.
    """
    values: dict[str, str] = {}
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        if not line.strip() or line.startswith("#"):
            continue
        found = re.fullmatch(r'([A-Z_]+)="([^"`\\]*)"', line)
        if found is None:
            raise RecipeError(f'{path}:{number}: `{line}` is not KEY="value"')
        values[found[1]] = re.sub(r"\$\{(\w+)\}", lambda name: values[name[1]], found[2])
    return values


def _steps(lines: Sequence[str]) -> list[str]:
    return [found[1] for line in lines if (found := STEP.match(line.strip()))]


def _joined(text: str) -> list[str]:
    """Instructions or commands, one a line: comments left out, continued lines put together."""
    kept = "\n".join(line for line in text.splitlines() if not line.lstrip().startswith("#"))
    return [line.strip() for line in kept.replace("\\\n", " ").splitlines() if line.strip()]


@dataclass(frozen=True)
class Dockerfile:
    """Attributes:
    steps: scripts that it runs, in order.
    arguments: build argument -> default.
    environment: what it sets for good, before and after the steps.
    labels: without build arguments put in.
    sources: paths that it copies, relative to the project.
    """

    steps: list[str]
    arguments: dict[str, str]
    environment: dict[str, str]
    labels: dict[str, str]
    sources: list[str]


def read_dockerfile(path: Path) -> Dockerfile:
    lines = _joined(path.read_text(encoding="utf-8"))

    def words(instruction: str) -> list[list[str]]:
        return [shlex.split(line)[1:] for line in lines if line.split()[0] == instruction]

    def pairs(instruction: str) -> dict[str, str]:
        return {key: value for line in words(instruction) for key, _, value in (word.partition("=") for word in line)}

    arguments = {word.partition("=")[0]: word.partition("=")[2] for [word] in words("ARG") if "=" in word}
    sources = [word for line in words("COPY") for word in line[:-1] if not word.startswith("--")]
    return Dockerfile(_steps(lines), arguments, pairs("ENV"), pairs("LABEL"), sources)


@dataclass(frozen=True)
class Definition:
    """A definition file.

    Attributes:
        header: keyword in lower case -> value.
        sections: name -> (number of its first line, text).
    """

    header: dict[str, str]
    sections: dict[str, tuple[int, str]]

    def text(self, name: str) -> str:
        return self.sections[name][1]

    @property
    def steps(self) -> list[str]:
        return _steps(self.text("post").splitlines())

    @property
    def arguments(self) -> dict[str, str]:
        """Build argument -> default."""
        return dict(line.split("=", 1) for line in _joined(self.text("arguments")))

    @property
    def files(self) -> list[tuple[str, str]]:
        """(path in the project, path in the image)."""
        return [(source, target) for source, target in map(str.split, _joined(self.text("files")))]

    @property
    def labels(self) -> dict[str, str]:
        words = [line.split(None, 1) for line in _joined(self.text("labels"))]
        return {key: value for [key, value] in words}

    @property
    def environment(self) -> dict[str, str]:
        words = [shlex.split(line) for line in _joined(self.text("environment"))]
        return {word.partition("=")[0]: word.partition("=")[2] for [_, word] in words}


def read_definition(path: Path) -> Definition:
    """Split a definition file into its header and its sections.

    Raises:
        RecipeError: it has a section that Apptainer would not know or has twice, or no base image.
    """
    header: dict[str, str] = {}
    sections: dict[str, tuple[int, str]] = {}
    current: str | None = None
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        found = re.match(r"%(\w*)(.*)", line)
        if found:
            current = found[1]
            if current not in SECTIONS or found[2].strip() or current in sections:
                raise RecipeError(f"{path}:{number}: `{line}` is no section, or is there twice")
            sections[current] = (number + 1, "")
        elif current is not None:
            first, text = sections[current]
            sections[current] = (first, text + line + "\n")
        elif line.strip() and not line.startswith("#"):
            key, colon, value = line.partition(":")
            if not colon:
                raise RecipeError(f"{path}:{number}: `{line}` stands before all sections and is no `Keyword: value`")
            header[key.strip().lower()] = value.strip()
    missing = [word for word in ("bootstrap", "from") if not header.get(word)]
    missing += [f"%{name}" for name in SECTIONS if name not in sections]
    if missing:
        raise RecipeError(f"{path}: it lacks {', '.join(missing)}")
    return Definition(header, sections)


def filled_in(text: str, arguments: Mapping[str, str]) -> str:
    """A section with its ``{{ NAME }}`` replaced, as Apptainer does before it runs anything.

    Raises:
        RecipeError: there is no such argument.
    """
    unknown = sorted(set(_ARGUMENT.findall(text)) - set(arguments))
    if unknown:
        raise RecipeError(f"{', '.join(unknown)} is used between braces and is not among the %arguments")
    return _ARGUMENT.sub(lambda found: arguments[found[1]], text)
