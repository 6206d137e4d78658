# SPDX-License-Identifier: Apache-2.0
"""What the Python that runs GPT-NeoX has: asked of that Python itself, without importing torch."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

_TIMEOUT_S = 60.0
_MOST_SAID = 120  # characters of what it complained about
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
# Without the current directory on the path: a folder there called `tokenizers` is no package of that Python.
_START = "import sys; sys.path[:] = [entry for entry in sys.path if entry]\n"
_QUESTION = """
import importlib.metadata as metadata, importlib.util as util, json
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


_FOUNDATION = """
import importlib.util as util, json, sysconfig
print(json.dumps({
    "python": list(sys.version_info[:3]),
    "executable": sys.executable,
    "include": sysconfig.get_path("include"),
    "suffix": sysconfig.get_config_var("EXT_SUFFIX"),
    "bindir": sysconfig.get_config_var("BINDIR") or "",
    "can_make": all(util.find_spec(name) for name in ("venv", "ensurepip")),
}))
"""
_DISTRIBUTIONS = """
import importlib.metadata as metadata, json
found = metadata.distributions()
print(json.dumps({one.metadata["Name"]: one.version for one in found if one.metadata["Name"]}))
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


@dataclass(frozen=True)
class Foundation:
    """A Python that a virtual environment may be made of.

    Attributes:
        executable: its own path.
        python: its version.
        headers: the file ``Python.h`` that extensions are compiled with; it may be missing.
        suffix: ending of its compiled extensions.
        config_script: its own ``python3.X-config``; it may be missing.
        can_make: whether it has the modules ``venv`` and ``ensurepip``, which Debian packages apart.
    """

    executable: str
    python: tuple[int, int, int]
    headers: Path
    suffix: str
    config_script: Path
    can_make: bool


def ask(
    python: str,
    distributions: tuple[str, ...] = ("torch", "deepspeed", "transformers", "numpy"),
    *,
    isolated: bool = False,
) -> Interpreter:
    """Start ``python`` for a moment.

    Args:
        python: a path, or a name on PATH.
        distributions: whose versions are wanted.
        isolated: look at its own packages alone, without what PYTHONPATH adds to them in a run.

    Raises:
        OSError: it cannot be started, or is no Python; the text says why.
    """
    question = json.dumps({"modules": list(NEEDED), "distributions": list(distributions)})
    answer = _answer(python, _QUESTION, question, isolated=isolated)
    return Interpreter(answer["executable"], _version(answer["python"]), tuple(answer["missing"]), answer["versions"])


def ask_foundation(python: str) -> Foundation:
    """What matters for making an environment of ``python``.

    Raises:
        OSError: as :func:`ask`.
    """
    answer = _answer(python, _FOUNDATION, isolated=True)
    return Foundation(
        executable=answer["executable"],
        python=_version(answer["python"]),
        headers=Path(answer["include"]) / "Python.h",
        suffix=answer["suffix"],
        config_script=Path(answer["bindir"]) / "python{}.{}-config".format(*answer["python"]),
        can_make=answer["can_make"],
    )


def ask_distributions(python: str) -> dict[str, str]:
    """Every distribution that is installed for ``python`` itself, and its version.

    Raises:
        OSError: as :func:`ask`.
    """
    return dict(sorted(_answer(python, _DISTRIBUTIONS, isolated=True).items()))


def _version(parts: Sequence[int]) -> tuple[int, int, int]:
    major, minor, micro = parts
    return major, minor, micro


def _answer(python: str, question: str, *arguments: str, isolated: bool) -> Any:
    flags = ["-I"] if isolated else []
    try:
        done = subprocess.run(
            [python, *flags, "-c", _START + question, *arguments],
            capture_output=True,
            text=True,
            timeout=_TIMEOUT_S,
            check=True,
        )
        return json.loads(done.stdout)
    except subprocess.CalledProcessError as error:
        said = (error.stderr or "").strip().splitlines()
        last = f", saying: {said[-1][:_MOST_SAID]}" if said else ""
        raise OSError(f"it exited with {error.returncode}{last}") from None
    except subprocess.TimeoutExpired:
        raise OSError(f"it did not answer within {_TIMEOUT_S:.0f} s") from None
    except ValueError:
        raise OSError("its answer is not that of a Python") from None
    except OSError as error:
        raise OSError(error.strerror or str(error)) from None
