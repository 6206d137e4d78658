# SPDX-License-Identifier: Apache-2.0
"""The programs that build a Dockerfile and run what came of it: Docker and Podman, and buildah, which needs no daemon.

buildah runs with chroot isolation and keeps everything in one directory, so it works as root in any container.
"""

from __future__ import annotations

import json
import os
import shlex
import shutil
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol


class BuildError(Exception):
    """What was to be built or to run inside did not; the text says which command."""


def call(command: Sequence[str | Path], *, capture: bool = False, show: bool = True, **variables: str) -> str:
    """Run a command.

    Args:
        command: its words.
        capture: return its stdout, and show it as it comes only if ``show``.
        variables: of its environment, beside this one's.

    Raises:
        BuildError: it fails, or is not there.
    """
    words = [str(word) for word in command]
    said = ""
    try:
        with subprocess.Popen(
            words,
            env={**os.environ, **variables},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE if capture else None,
            text=True,
        ) as process:
            for line in process.stdout or ():
                said += line
                if show:
                    print(line, end="", flush=True)
    except OSError as error:
        raise BuildError(f"{words[0]} does not start ({error.strerror})") from None
    if process.returncode != 0:
        raise BuildError(f"`{shlex.join(words)[:500]}` exited with {process.returncode}")
    return said


class Engine(Protocol):
    """One way to build and to run."""

    def build(self, root: Path, arguments: Mapping[str, str], tag: str, mounts: Mapping[str, str]) -> None:
        """Build containers/Dockerfile with these build arguments; mounts are there while steps run."""
        ...

    def config(self, image: str) -> dict[str, Any]:
        """The image's configuration, keys as Docker has them."""
        ...

    def start(self, image: str) -> str:
        """What commands can be run in, one after the other."""
        ...

    def run(self, container: str, command: Sequence[str], *, user: str | None, mounts: Mapping[str, str]) -> str:
        """Run a command with read-only mounts.  Returns its stdout."""
        ...

    def remove(self, container: str) -> None: ...


class Docker:
    """Docker, or Podman, which takes the same command line."""

    def __init__(self, program: str) -> None:
        self.program = program

    def build(self, root: Path, arguments: Mapping[str, str], tag: str, mounts: Mapping[str, str]) -> None:
        if mounts:
            raise BuildError(f"{self.program} mounts nothing into a build: sources must be what it can fetch")
        words = [f"--build-arg={key}={value}" for key, value in arguments.items()]
        file = root / "containers" / "Dockerfile"
        call([self.program, "build", *words, "--tag", tag, "--file", file, root], DOCKER_BUILDKIT="1")

    def start(self, image: str) -> str:
        return image  # each command gets a container of its own

    def run(self, container: str, command: Sequence[str], *, user: str | None, mounts: Mapping[str, str]) -> str:
        words = [f"--volume={source}:{target}:ro" for source, target in mounts.items()]
        words += [f"--user={user}"] if user else []
        return call([self.program, "run", "--rm", "--init", *words, container, *command], capture=True)

    def remove(self, container: str) -> None:
        pass

    def config(self, image: str) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(call([self.program, "image", "inspect", image], capture=True, show=False))[
            0
        ]["Config"]
        return found


class Buildah:
    """buildah with a store of its own.

    Args:
        store: an existing directory; all images and containers go there.
    """

    def __init__(self, store: Path) -> None:
        self.store = store
        self.driver = "overlay" if _can_overlay(store) else "vfs"  # vfs works anywhere, and copies images of gigabytes

    def _call(self, *words: str | Path, capture: bool = False, show: bool = True) -> str:
        places = [f"--root={self.store / 'storage'}", f"--runroot={self.store / 'run'}"]
        command = ["buildah", *places, f"--storage-driver={self.driver}", *words]
        return call(command, capture=capture, show=show, TMPDIR=str(self.store))

    def has(self, image: str) -> bool:
        return image in self._call("images", "--format", "{{.Name}}:{{.Tag}}", capture=True, show=False).split()

    def import_tree(self, archive: Path, image: str) -> None:
        """Make an image of one tar archive."""
        container = self._call("from", "scratch", capture=True, show=False).strip()
        self._call("add", "--quiet", container, archive, "/")
        self._call("commit", "--quiet", "--rm", container, image)

    def build(self, root: Path, arguments: Mapping[str, str], tag: str, mounts: Mapping[str, str]) -> None:
        containers = root / "containers"
        words = [f"--build-arg={key}={value}" for key, value in arguments.items()]
        words += [f"--volume={source}:{target}:ro" for source, target in mounts.items()]
        words += ["--pull=never", "--isolation=chroot", "--format=docker", "--layers=false", "--tag", tag]
        ignore = f"--ignorefile={containers / 'Dockerfile.dockerignore'}"
        self._call("bud", *words, ignore, f"--file={containers / 'Dockerfile'}", root)

    def config(self, image: str) -> dict[str, Any]:
        found = json.loads(self._call("inspect", "--type=image", image, capture=True, show=False))
        config: dict[str, Any] = found["Docker"]["config"]
        return config

    def start(self, image: str) -> str:
        return self._call("from", "--pull=never", image, capture=True, show=False).strip()

    def copy_in(self, container: str, source: Path, target: str) -> None:
        self._call("copy", "--quiet", container, source, target)

    def run(self, container: str, command: Sequence[str], *, user: str | None, mounts: Mapping[str, str]) -> str:
        words = [f"--volume={source}:{target}:ro" for source, target in mounts.items()]
        words += [f"--user={user}"] if user else []
        return self._call("run", "--isolation=chroot", *words, container, "--", *command, capture=True)

    def remove(self, container: str) -> None:
        self._call("rm", container, capture=True, show=False)


def choose_engine(name: str | None, store: Path) -> Docker | Buildah:
    """The engine of that name; without one the first that answers: Docker, buildah (for root), Podman.

    Raises:
        BuildError: none does.
    """
    if name == "buildah" or (name is None and not _answers("docker") and shutil.which("buildah") and os.geteuid() == 0):
        return Buildah(store)
    for program in [name] if name else ["docker", "podman"]:
        if _answers(program):
            return Docker(program)
    raise BuildError("there is no engine that answers: install buildah, or start Docker")


def _answers(program: str) -> bool:
    if shutil.which(program) is None:
        return False
    return subprocess.run([program, "info"], stdin=subprocess.DEVNULL, capture_output=True, check=False).returncode == 0


def _can_overlay(folder: Path) -> bool:
    """Whether the kernel lets this user lay directories over each other there: not in most containers."""
    with tempfile.TemporaryDirectory(dir=folder) as place:
        names = [Path(place, name) for name in ("lower", "upper", "work", "merged")]
        for name in names:
            name.mkdir()
        options = f"lowerdir={names[0]},upperdir={names[1]},workdir={names[2]}"
        mount = ["mount", "-t", "overlay", "overlay", "-o", options, str(names[3])]
        if subprocess.run(mount, capture_output=True, check=False).returncode != 0:
            return False
        subprocess.run(["umount", str(names[3])], check=True)
        return True
