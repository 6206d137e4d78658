# SPDX-License-Identifier: Apache-2.0
"""The loop over segments: launch the trainer, judge its checkpoint, make the reset, go on; and be killed at any time.

The checkpoint directory is the truth (``progress``), the journal the history (``journal``).  One supervisor per run
directory (``lock``); the trainer lives under a guardian that outlives nobody (``guardian``, ``child``).  A trainer is
known only by its contract, an audience only by ``observer``.
"""
