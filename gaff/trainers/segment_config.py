# SPDX-License-Identifier: Apache-2.0
"""The GPT-NeoX keys of one segment: the user's, and those that make a trainer resume and stop where it is asked to.

Both trainers take the same keys, so both are told the same.  One merged config is needed because GPT-NeoX refuses a
key that stands in two files.  What is changed is decided in :mod:`gaff.plan.changes`, which the plan shows.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from gaff.plan.changes import apply, changes
from gaff.plan.config import Config
from gaff.trainers.contract import SegmentRequest


def segment_keys(
    config: Config,
    request: SegmentRequest,
    *,
    validates_pipelines: bool,
    launcher: Mapping[str, Any] = MappingProxyType({}),
) -> dict[str, Any]:
    """All GPT-NeoX keys with which a trainer does one segment.

    Args:
        config: the user's config.
        request: where the segment starts and stops.
        validates_pipelines: whether the trainer can validate with ``pipe_parallel_size`` of 1 or more.
        launcher: keys that the trainer's launcher needs; the plan is given the same.
    """
    found = changes(
        config,
        start=request.start,
        stop=request.stop,
        save=str(request.save),
        master_port=request.master_port,
        validates_pipelines=validates_pipelines,
        launcher=launcher,
    )
    return apply(config.neox, found)
