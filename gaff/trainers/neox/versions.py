# SPDX-License-Identifier: Apache-2.0
"""Which GPT-NeoX, and which versions beside it, GAFF was tested with.  One table; nothing else names a version."""

from __future__ import annotations

from collections.abc import Mapping

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
