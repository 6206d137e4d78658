# SPDX-License-Identifier: Apache-2.0
"""What is missing on this machine, or for this config, and the command that mends it.

``subject`` says what is examined, ``probes`` ask the system, each module of ``areas`` judges facts, and ``examine``
runs them all: a probe that fails is a finding, never a crash.
"""
