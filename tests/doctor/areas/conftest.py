# SPDX-License-Identifier: Apache-2.0
"""The good config of the plan's tests, for the doctor."""

from tests.plan.conftest import load, project, write

__all__ = ["load", "project", "write"]
