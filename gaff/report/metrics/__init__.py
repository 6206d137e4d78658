# SPDX-License-Identifier: Apache-2.0
"""The series of a run: read from its logs and journal, kept in ``metrics.jsonl``, loaded as columns."""
