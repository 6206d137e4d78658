# SPDX-License-Identifier: Apache-2.0
"""What the Python that runs GPT-NeoX has: asked of that Python itself, without importing torch."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass

_TIMEOUT_S = 60.0
#: Module that GPT-NeoX imports -> distribution that has it.
NEEDED: Mapping[str, str] = {
    "torch": "torch",
    "deepspeed": "deepspeed",
    "transformers": "transformers",
    "numpy": "numpy",
    "ftfy": "ftfy",
    "lm_dataformat": "lm_dataformat",
    "pybind11": "pybind11",
    "sentencepiece": "sentencepiece",
    "tiktoken": "tiktoken",
    "tokenizers": "tokenizers",
    "requests": "requests",
    "pkg_resources": "setuptools<80",
}
_QUESTION = """
import importlib.metadata as metadata, importlib.util as util, json, sys
names = json.loads(sys.argv[1])
def version(name):
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None
print(json.dumps({
    "python": list(sys.version_info[:3]),
    "executable": sys.executable,
    "missing": [module for module in names["modules"] if util.find_spec(module) is None],
    "versions": {name: version(name) for name in names["distributions"]},
}))
"""


@dataclass(frozen=True)
class Interpreter:
    """What one Python answered.

    Attributes:
        executable: its own path.
        python: its version.
        missing: modules GPT-NeoX imports and it lacks.
        versions: of the distributions asked for; None where one is not installed.
    """

    executable: str
    python: tuple[int, int, int]
    missing: tuple[str, ...]
    versions: Mapping[str, str | None]


def ask(python: str, distributions: tuple[str, ...] = ("torch", "deepspeed", "transformers", "numpy")) -> Interpreter:
    """Start ``python`` for a moment.

    Raises:
        OSError: it cannot be started, or is no Python; the text says why.
    """
    question = json.dumps({"modules": list(NEEDED), "distributions": list(distributions)})
    try:
        done = subprocess.run(
            [python, "-c", _QUESTION, question], capture_output=True, text=True, timeout=_TIMEOUT_S, check=True
        )
        answer = json.loads(done.stdout)
    except subprocess.CalledProcessError as error:
        said = (error.stderr or "").strip().splitlines()
        raise OSError(f"it exited with {error.returncode}{f', saying: {said[-1]}' if said else ''}") from None
    except subprocess.TimeoutExpired:
        raise OSError(f"it did not answer within {_TIMEOUT_S:.0f} s") from None
    except ValueError:
        raise OSError("its answer is not that of a Python") from None
    major, minor, micro = answer["python"]
    return Interpreter(answer["executable"], (major, minor, micro), tuple(answer["missing"]), answer["versions"])
