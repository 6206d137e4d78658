# SPDX-License-Identifier: Apache-2.0
"""Imported by Python at every start of a process that has this directory on its PYTHONPATH.

Does nothing unless ``GAFF_CPU_SHIM`` is set.  A ``sitecustomize`` that this one hides is run as well.
"""

import importlib.machinery
import importlib.util
import os
import sys

_HERE = os.path.dirname(os.path.abspath(__file__))


def _run_the_hidden_one() -> None:
    others = [path for path in sys.path if os.path.abspath(path) != _HERE]
    spec = importlib.machinery.PathFinder.find_spec("sitecustomize", others)
    if spec is not None and spec.loader is not None:
        spec.loader.exec_module(importlib.util.module_from_spec(spec))


if os.environ.get("GAFF_CPU_SHIM"):
    from gaff_cpu_shim import install

    install.install()
_run_the_hidden_one()
