# SPDX-License-Identifier: Apache-2.0
"""All faults that are known by what they print.

Where the words come from: runs of unmodified GPT-NeoX (ea7aefd8) and of its Makefile, torch, tokenizers, gloo, ssh,
pdsh and srun on the CPU; the sources of GPT-NeoX, DeepSpeed 0.16.5 and torch 2.13; for NCCL, CUDA and Slurm, logs in
public issue threads (NVIDIA/nccl 525, 795 and 2076, pytorch 5040, deepspeedai/DeepSpeed 5709, huggingface/trl 4149).
"""

from __future__ import annotations

from gaff.trainers.fault import Fault
from gaff.trainers.faults_at_work import AT_WORK
from gaff.trainers.faults_of_setup import SETUP

# The first row that finds its pattern counts, so the more special stands before the more general.
FAULTS: tuple[Fault, ...] = (*SETUP, *AT_WORK)
