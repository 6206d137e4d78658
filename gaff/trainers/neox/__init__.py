# SPDX-License-Identifier: Apache-2.0
"""Unmodified GPT-NeoX: where it is, what it needs, how it is launched, with a GPU and without.

``checkout`` and ``interpreter`` look at what is there, ``versions`` says what was tested, ``install`` makes it;
``trainer`` is the trainer of :mod:`gaff.trainers.contract`, ``launchers`` and ``container`` build its command line and
environment, and ``cpu_shim/`` is what GPT-NeoX's own Python loads where there is no GPU.
"""
