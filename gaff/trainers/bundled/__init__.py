# SPDX-License-Identifier: Apache-2.0
"""The bundled trainer: a small GPT-NeoX model on real DeepSpeed, on the CPU, for rehearsals and tests.

``python -m gaff.trainers.bundled CONFIG.yml`` takes GPT-NeoX's YAML keys, reads its data files, stops, saves, resumes,
names its checkpoint files and words its log lines as GPT-NeoX does.  One process per rank over gloo, forked here or,
with ``launcher: slurm`` and a hostfile, started by srun on several nodes; pipeline engine or plain engine; ZeRO 0, 1,
2.  It refuses by name what it does not do (:mod:`.support`) and never stands in for GPT-NeoX.

Modules: :mod:`.adapter` (what the supervisor sees), :mod:`.support` (what is refused), :mod:`.settings` (keys to
values), :mod:`.launch` (processes), :mod:`.nodes` and :mod:`.step` (processes under srun), :mod:`.engine`,
:mod:`.model`, :mod:`.batches`, :mod:`.schedule`, :mod:`.saving`, :mod:`.log`, :mod:`.train` (one rank).  Only the
modules that a rank runs import torch.

Facts about GPT-NeoX's behaviour are from runs of commit ea7aefd8 (2026-05).
"""
