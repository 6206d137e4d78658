# SPDX-License-Identifier: Apache-2.0
"""What the doctor asks the Python that runs GPT-NeoX, beyond what every launch asks: without importing torch."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Mapping
from dataclasses import dataclass

from gaff.doctor.probes import Version, run, version_in
from gaff.trainers.neox.interpreter import Foundation, Interpreter, ask, ask_foundation
from gaff.trainers.neox.versions import CPU_SET, TESTED

#: Distributions that GPT-NeoX needs for some configs only, beside those that were tested.
OPTIONAL = (
    *("flash-attn", "apex", "transformer-engine", "mamba-ssm", "causal-conv1d", "bitsandbytes"),
    *("mpi4py", "wandb", "tensorboard"),
)
_QUESTION = """
import importlib.util as util, json, os, runpy
torch = util.find_spec("torch")
version = os.path.join(torch.submodule_search_locations[0], "version.py") if torch else ""
facts = runpy.run_path(version) if os.path.isfile(version) else {}
print(json.dumps({"cuda": facts.get("cuda")}))
"""


@dataclass(frozen=True)
class NeoxPython:
    """Attributes:
    command: as it was named.
    interpreter: its version, packages and their versions; None when it does not run.
    trouble: then, why.
    foundation: what extensions are compiled with for it.
    torch_cuda: the CUDA that its torch was built with; empty for a build without.
    """

    command: str
    interpreter: Interpreter | None
    trouble: str | None = None
    foundation: Foundation | None = None
    torch_cuda: Version = ()

    def version(self, distribution: str) -> str | None:
        """The version of one of the tested or optional distributions; None when it is not there."""
        versions: Mapping[str, str | None] = self.interpreter.versions if self.interpreter else {}
        return versions.get(distribution)

    @property
    def is_own(self) -> bool:
        """Whether it is GAFF's own Python, whose packages clash with GPT-NeoX's."""
        return self.interpreter is not None and self.interpreter.executable == sys.executable


def requirement(distribution: str) -> str:
    """What pip is to be told for one of GPT-NeoX's packages: the version that was tested, where one is pinned."""
    return next((one for one in CPU_SET.packages if re.match(rf"{re.escape(distribution)}\b", one)), distribution)


def ask_neox_python(command: str) -> NeoxPython:
    """Start it a few times for a moment."""
    try:
        interpreter, foundation = ask(command, (*TESTED, *OPTIONAL)), ask_foundation(command)
    except OSError as error:
        return NeoxPython(command, None, str(error))
    answer = run([command, "-c", _QUESTION])
    cuda = json.loads(answer.out)["cuda"] if answer.good else None  # a torch without version.py answers None too
    return NeoxPython(command, interpreter, None, foundation, version_in(cuda or ""))
