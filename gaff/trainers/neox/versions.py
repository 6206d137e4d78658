# SPDX-License-Identifier: Apache-2.0
"""Which GPT-NeoX, and which versions beside it, GAFF was tested with.  One table; nothing else names a version."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

REPOSITORY = "https://github.com/EleutherAI/gpt-neox"
#: The newest commit that GAFF's facts about GPT-NeoX were verified on.
PINNED_COMMIT = "ea7aefd8f8e183256992d9fede4d7c71a46d67a5"

#: Distribution -> versions with which unmodified GPT-NeoX trained and resumed under GAFF.
TESTED: Mapping[str, tuple[str, ...]] = {
    "torch": ("2.13.0",),
    "deepspeed": ("0.16.5", "0.19.8"),
    "transformers": ("4.38.0",),
    "numpy": ("1.26.4",),
}
#: Pythons that the pinned transformers and numpy have wheels for.
OLDEST_PYTHON, NEWEST_PYTHON = (3, 8), (3, 12)


def is_tested(distribution: str, version: str) -> bool:
    """Whether a version is in the table.  What follows ``+`` names a build (``2.13.0+cpu``) and is left out."""
    return version.partition("+")[0] in TESTED[distribution]


@dataclass(frozen=True)
class PackageSet:
    """What `gaff neox install` puts into an environment.

    Attributes:
        device: ``cpu`` or ``gpu``.
        torch: requirement of torch.
        oldest_python: the oldest that this torch has wheels for.
        requirements_file: path in the checkout of a list to install, None for none.
        packages: requirements beside these.
        download_mb, disk_mb: about how much is fetched, and how much the environment takes; MB = 10^6 bytes.
        measured: how the two are known.
    """

    device: str
    torch: str
    oldest_python: tuple[int, int]
    requirements_file: str | None
    packages: tuple[str, ...]
    download_mb: int
    disk_mb: int
    measured: str


_BUILD_TOOLS = ("setuptools<80", "wheel", "ninja", "packaging")  # pkg_resources, which GPT-NeoX imports, left in 80
CPU_SET = PackageSet(
    device="cpu",
    torch="torch==2.13.0",
    oldest_python=(3, 10),
    requirements_file=None,
    packages=(
        *("deepspeed==0.16.5", "transformers==4.38.0", "numpy<2"),
        *("ftfy", "sentencepiece", "tiktoken", "lm_dataformat", "pybind11", "requests", "regex", "six"),
        *_BUILD_TOOLS,
    ),
    download_mb=260,
    disk_mb=1300,
    measured="measured with a CPU build of torch",
)
GPU_SET = PackageSet(
    device="gpu",
    torch="torch==2.7.1",
    oldest_python=(3, 9),
    requirements_file="requirements/requirements.txt",
    packages=_BUILD_TOOLS,
    download_mb=3500,
    disk_mb=7000,
    measured="torch with its CUDA libraries measured, the rest estimated",
)
#: A clone of GPT-NeoX with its history and work tree; measured.
CLONE_MB = 50


def package_set(cpu: bool) -> PackageSet:
    return CPU_SET if cpu else GPU_SET
