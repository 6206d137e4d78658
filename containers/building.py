# SPDX-License-Identifier: Apache-2.0
"""Build the recipes for real, and see that what they make works: version, rights, doctor, a rehearsal inside.

Where no registry can be reached, a fresh Debian made by debootstrap stands in for the base image.  Apptainer is not
called: gaff.def's %files, %post and %test are run in such a container as Apptainer would run them.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Protocol

from engines import Buildah, BuildError, Docker, call, choose_engine
from host import debian_mirror, give_apt_settings, pip_mounts
from recipes import filled_in, read_definition, read_versions

_SUITE = "bookworm"
_STRANGER = "4321:4321"  # an id that no image has a name for
_SOURCE = "/mnt/gpt-neox"  # inside, while steps run
_CONFIGS = "/mnt/neox_configs"

#: On a busy machine the minutes may be too few, for which the exit code is 2; then it is tried with more.
_REHEARSE = f"""
for minutes; do
    gaff rehearse --config {_CONFIGS}/pythia-70m.yml --trainer bundled --minutes $minutes --run-dir run-$minutes && exit
    [ $? = 2 ] || exit 1
done
exit 2
"""


class Inside(Protocol):
    """Runs a command in the image and returns its stdout."""

    def __call__(self, *command: str, user: str | None = None) -> str: ...


def add_build_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--variant", choices=("gpu", "cpu"), default="gpu", help="which image (gpu)")
    parser.add_argument("--recipe", choices=("both", "dockerfile", "definition"), default="both")
    parser.add_argument(
        "--base",
        metavar="IMAGE",
        help="another base image; `debootstrap`: a fresh Debian, for buildah",
    )
    parser.add_argument("--engine", choices=("docker", "podman", "buildah"), help="else the first that answers")
    parser.add_argument("--neox-source", metavar="DIR", help="a GPT-NeoX repository, or `none` (GitHub's)")
    parser.add_argument("--build-arg", action="append", default=[], metavar="NAME=VALUE", help="as for Docker")
    parser.add_argument(
        "--rehearse",
        type=float,
        default=1.0,
        metavar="MINUTES",
        help="of a rehearsal inside, more on a busy machine (1)",
    )
    parser.add_argument("--work", type=Path, metavar="DIR", help="keep buildah's images and the Debian there")


def build(root: Path, options: argparse.Namespace) -> None:
    """Build what the command line asks for, and check it.

    Raises:
        BuildError: something does not build, or what was built does not do what it should.
    """
    with tempfile.TemporaryDirectory(prefix="gaff-images-") as temporary:
        work = (options.work or Path(temporary)).absolute()
        work.mkdir(parents=True, exist_ok=True)
        engine = choose_engine(options.engine, work)
        arguments, mounts = _arguments(options), {}
        if isinstance(engine, Buildah):
            mounts = pip_mounts(Path(temporary))
            if arguments["NEOX_SOURCE"].startswith("/"):
                mounts[arguments["NEOX_SOURCE"]] = _SOURCE
                arguments["NEOX_SOURCE"] = _SOURCE
        base = _base(root, options, engine, work)
        if options.recipe != "definition":
            tag = f"localhost/gaff-{options.variant}:check"
            _timed("Dockerfile", lambda: engine.build(root, {**arguments, "BASE": base}, tag, mounts))
            _timed("what it made", lambda: _check_image(root, options, engine, tag))
        if options.recipe != "dockerfile":
            if not isinstance(engine, Buildah):
                raise BuildError("gaff.def is tried with buildah alone: --recipe dockerfile leaves it out")
            _timed("gaff.def", lambda: _try_definition(root, engine, {**arguments, "BASE": base}, mounts))


def _timed(name: str, action: Callable[[], None]) -> None:
    began = time.monotonic()
    action()
    print(f"containers/check: {name}: fine after {time.monotonic() - began:.0f} s", flush=True)


def _arguments(options: argparse.Namespace) -> dict[str, str]:
    source = options.neox_source or "default"
    if os.path.isdir(source):
        source = os.path.abspath(source)
    given = dict(word.split("=", 1) for word in options.build_arg if "=" in word)
    return {"VARIANT": options.variant, "NEOX_SOURCE": source, **given}


def _base(root: Path, options: argparse.Namespace, engine: Docker | Buildah, work: Path) -> str:
    """Name of the base image; where debootstrap is asked for, it is made and stored under the real one's name."""
    name = read_versions(root / "containers" / "versions.env")[f"BASE_{options.variant.upper()}"]
    if options.base != "debootstrap":
        return options.base or name
    if not isinstance(engine, Buildah):
        raise BuildError("a Debian made here is for buildah: give --engine buildah")
    if not engine.has(name):
        archive = work / f"{_SUITE}.tar"
        if not archive.exists():
            _timed("a fresh Debian", lambda: _debian(archive))
        engine.import_tree(archive, name)
    return name


def _debian(archive: Path) -> None:
    """A minimal Debian that fetches packages as this machine does."""
    if os.geteuid() != 0:
        raise BuildError("debootstrap needs root")
    with tempfile.TemporaryDirectory(prefix="gaff-debian-") as folder:
        tree = Path(folder) / "tree"
        mirror = debian_mirror()
        call(["debootstrap", "--variant=minbase", _SUITE, tree, *([mirror] if mirror else [])], capture=True)
        give_apt_settings(tree)
        partial = archive.with_suffix(".partial")
        call(["tar", "-C", tree, "--exclude=./dev/*", "--exclude=./var/cache/apt/archives/*.deb", "-cf", partial, "."])
        partial.rename(archive)


def _check_image(root: Path, options: argparse.Namespace, engine: Docker | Buildah, image: str) -> None:
    """What the image says of itself, then what it does."""
    config = engine.config(image)
    wanted = {"User": "1000:1000", "WorkingDir": "/work", "Cmd": ["gaff", "--help"]}
    for key, value in wanted.items():
        if config.get(key) != value:
            raise BuildError(f"the image's {key} is {config.get(key)}, not {value}")
    labels = config.get("Labels") or {}
    if labels.get("org.opencontainers.image.licenses") != "Apache-2.0":
        raise BuildError(f"the image's labels are {labels}")
    health = (config.get("Healthcheck") or {}).get("Test", [])
    if health[:1] != ["CMD"]:
        raise BuildError("the image has no HEALTHCHECK")
    mounts = {str(root / "neox_configs"): _CONFIGS}
    container = engine.start(image)

    def inside(*command: str, user: str | None = None) -> str:
        return engine.run(container, command, user=user, mounts=mounts)

    try:
        _use(inside, options, labels, health)
    finally:
        engine.remove(container)


def _use(inside: Inside, options: argparse.Namespace, labels: Mapping[str, str], health: list[str]) -> None:
    """Version, health check, rights and rehearsal, for the image's own user and for one that it does not know."""
    version = inside("gaff", "--version").split()[-1]
    if version != labels.get("org.opencontainers.image.version"):
        raise BuildError(f"gaff --version says {version}, the label {labels.get('org.opencontainers.image.version')}")
    inside(*health[1:])
    inside("/opt/image/steps/check.sh", user=_STRANGER)
    ids = inside("sh", "-c", "id -u; touch /opt/x 2>/dev/null || echo refused").split()
    if ids != ["1000", "refused"]:
        raise BuildError(f"the image's user should be 1000 and own nothing of /opt: {' '.join(ids)}")
    inside("sh", "-c", 'cd /work && touch mine "$HOME/mine" && rm mine "$HOME/mine"', user=_STRANGER)
    if options.rehearse and options.variant == "cpu":
        inside("sh", "-c", _REHEARSE, "sh", *(f"{options.rehearse * factor:g}" for factor in (1, 3, 9)))


def _try_definition(root: Path, engine: Buildah, arguments: Mapping[str, str], mounts: Mapping[str, str]) -> None:
    """%files, %post and %test of gaff.def, in a container of its base image."""
    definition = read_definition(root / "containers" / "gaff.def")
    unknown = set(arguments) - set(definition.arguments)
    if unknown:
        raise BuildError(f"gaff.def has no argument {', '.join(sorted(unknown))}")
    values = {**definition.arguments, **arguments}
    container = engine.start(filled_in(definition.header["from"], values))
    try:
        for source, target in definition.files:
            engine.copy_in(container, root / source, target)
        post = filled_in(definition.text("post"), values)
        engine.run(container, ["sh", "-e", "-c", post], user=None, mounts=mounts)
        # Apptainer runs the rest with %environment set, as the user who called it, whose home it mounts.
        test = filled_in(definition.text("environment") + definition.text("test"), values)
        engine.run(container, ["sh", "-e", "-c", test], user=_STRANGER, mounts={})
        runscript = filled_in(definition.text("environment") + definition.text("runscript"), values)
        said = engine.run(container, ["sh", "-c", runscript, "gaff.sif", "--version"], user=_STRANGER, mounts={})
        if not said.startswith("gaff "):
            raise BuildError(f"the runscript with --version says {said!r}")
    finally:
        engine.remove(container)
