# SPDX-License-Identifier: Apache-2.0
"""What is compiled for an installation, and the proof that it works."""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from gaff.trainers.neox.checkout import HELPER, Checkout
from gaff.trainers.neox.environment import compilers
from gaff.trainers.neox.install_site import CommandError, Site
from gaff.trainers.neox.interpreter import ask, ask_foundation

_BUILD_OP = "from deepspeed.ops.op_builder import FusedAdamBuilder; FusedAdamBuilder().load()"
_IMPORT = "import megatron.training"
_COMPILER_REMEDY = "see the compiler's words there; a g++ that knows C++20, and Python's headers, are needed"


def compilers_of_launches() -> dict[str, str]:
    """CXX and CC as a launch of GPT-NeoX will have them.  An op built with another CXX is built again at its start."""
    return {name: os.environ[name] for name in ("CXX", "CC") if name in os.environ} | compilers(os.environ)


class HelperStep:
    """Compile GPT-NeoX's data helper, which it else compiles at its first start."""

    name = "helper"
    aim = "compile GPT-NeoX's data helper"

    def __init__(self, site: Site) -> None:
        self.site = site

    def wanted(self) -> dict[str, Any]:
        return {"python": self.site.wanted("environment")}

    def holds(self) -> bool:
        return self._target().is_file()

    def perform(self) -> Mapping[str, Any]:
        folder = self.site.checkout / HELPER
        for half_written in folder.glob("helpers*.so"):
            half_written.unlink()
        try:
            self.site.run(["make"], cwd=folder, environment=compilers_of_launches())
        except CommandError as error:
            raise self.site.failed(
                self.name, "the data helper does not compile", str(error), _COMPILER_REMEDY
            ) from None
        target = self._target()
        if not target.is_file():
            found = ", ".join(path.name for path in folder.glob("helpers*.so")) or "nothing"
            remedy = "put the python3-config that belongs to it first on PATH (its development package has it)"
            raise self.site.failed(self.name, f"make was to build {target.name}", f"it built {found}", remedy)
        return {"file": target.name}

    def _target(self) -> Path:
        return Checkout(self.site.checkout).helper(ask_foundation(self.site.python).suffix)


class OpsStep:
    """Compile DeepSpeed's Adam for the CPU, which each rank else does at its first start."""

    name = "ops"
    aim = "compile DeepSpeed's Adam for the CPU"

    def __init__(self, site: Site) -> None:
        self.site = site

    def wanted(self) -> dict[str, Any]:
        return {**installed_versions(self.site), "compiler": compilers_of_launches()["CXX"]}

    def holds(self) -> bool:
        return built_ops(self.site.extensions) != ()

    def perform(self) -> Mapping[str, Any]:
        # A build that was killed leaves a file called `lock`, for which every later one waits without end.
        shutil.rmtree(self.site.extensions, ignore_errors=True)
        self.site.extensions.mkdir(parents=True)
        environment = {
            "TORCH_EXTENSIONS_DIR": str(self.site.extensions),
            "DS_ACCELERATOR": "cpu",
            **compilers_of_launches(),
        }
        try:
            self.site.run([self.site.python, "-c", _BUILD_OP], cwd=self.site.root, environment=environment)
        except CommandError as error:
            raise self.site.failed(
                self.name, "DeepSpeed's Adam does not compile", str(error), _COMPILER_REMEDY
            ) from None
        return {"ops": list(built_ops(self.site.extensions))}


class ProofStep:
    """See that GPT-NeoX's training module can be imported from the checkout by the environment's Python.

    This starts no training and touches no GPU.
    """

    name = "proof"
    aim = "import GPT-NeoX"

    def __init__(self, site: Site) -> None:
        self.site = site

    def wanted(self) -> dict[str, Any]:
        return {"checkout": str(self.site.checkout), "commit": self.site.commit, **installed_versions(self.site)}

    def holds(self) -> bool:
        return True

    def perform(self) -> Mapping[str, Any]:
        environment = {"PYTHONDONTWRITEBYTECODE": "1", "TORCH_EXTENSIONS_DIR": str(self.site.extensions)}
        if self.site.cpu:
            environment["DS_ACCELERATOR"] = "cpu"
        try:
            self.site.run([self.site.python, "-c", _IMPORT], cwd=self.site.checkout, environment=environment)
        except CommandError as error:
            remedy = "see its words there; remove this installation's directory to begin anew"
            raise self.site.failed(self.name, "GPT-NeoX cannot be imported", str(error), remedy) from None
        return {}


def built_ops(extensions: Path) -> tuple[str, ...]:
    """Names of the compiled ops in a TORCH_EXTENSIONS_DIR, without those that a killed build left locked."""
    return tuple(sorted(path.stem for path in extensions.glob("*/*.so") if not (path.parent / "lock").exists()))


def installed_versions(site: Site) -> dict[str, Any]:
    """Versions of torch and DeepSpeed; None for each that is not there, or when there is no environment."""
    try:
        return dict(ask(site.python, ("torch", "deepspeed"), isolated=True).versions)
    except OSError:
        return {"torch": None, "deepspeed": None}
