# SPDX-License-Identifier: Apache-2.0
"""Trainers: programs that train one segment per launch, behind one contract (``contract``).

``neox`` launches unmodified GPT-NeoX; ``bundled`` is a small stand-in for machines without a GPU, never used silently.
``loglines`` turns the output of either into events.  Nothing here knows about runs, journals or resets.
"""
