# SPDX-License-Identifier: Apache-2.0
"""What judges the figures that a trainer logs, and the lack of them.  Hangs are ``supervisor.watch``'s.

``alarm`` (words) and ``history`` (what outlives one launch) -> ``figures`` (loss, skipped iterations, loss scale),
``slow``, ``checkpoints`` (one family of watchdogs each) -> ``watchdogs`` (all of them, for one launch).
"""
