# SPDX-License-Identifier: Apache-2.0
"""The environment in which Slurm's programs are asked: without what changes their meaning.

Measured with 22.05: ``sbatch --export=NONE`` hands a new job every SLURM_* variable of the submitting shell, which may
itself be in a job (array numbers, restart counts, sizes); SBATCH_* beat the lines of the script; SLURM_TIME_FORMAT and
SQUEUE_* change what is printed.
"""

from __future__ import annotations

import os
from collections.abc import Mapping

_FOREIGN = ("SLURM_", "SBATCH_", "SQUEUE_", "SCONTROL_", "SALLOC_", "SRUN_")
_KEPT = ("SLURM_CONF", "SLURM_CLUSTERS")


def clean_environment(environ: Mapping[str, str] = os.environ) -> dict[str, str]:
    """``environ`` without Slurm's variables but those that say where Slurm is."""
    own = {name: value for name, value in environ.items() if name in _KEPT or not name.startswith(_FOREIGN)}
    return {**own, "SLURM_TIME_FORMAT": "standard"}
