# SPDX-License-Identifier: Apache-2.0
"""Whether this machine has GPUs, from what the kernel shows: a mask such as CUDA_VISIBLE_DEVICES hides nothing here."""

from __future__ import annotations

import glob

#: One entry for each NVIDIA GPU; the compute device of AMD's.
_SIGNS = ("/proc/driver/nvidia/gpus/*", "/dev/nvidia[0-9]*", "/dev/kfd")


def signs_of_gpus() -> list[str]:
    """Paths that are there only where a GPU is."""
    return [path for pattern in _SIGNS for path in sorted(glob.glob(pattern))]
