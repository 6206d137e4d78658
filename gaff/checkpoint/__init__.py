# SPDX-License-Identifier: Apache-2.0
"""The operating table: DeepSpeed checkpoints of GPT-NeoX read, edited and verified without torch.

Lowest first: ``crc`` and ``unpickle`` -> ``archive`` (one .pt file) -> ``layout`` (one tag) -> ``values`` (what is
written) -> ``transaction`` (crash-safe edits) -> ``surgery`` (the reset) and ``verify``.

Words: a *tag* is one checkpoint directory ``global_stepN``; a *record* is one member of a .pt file's zip; a *copy* is
one byte range where (part of) a parameter is stored.  This package knows nothing of runs, trainers or supervisors.
"""
