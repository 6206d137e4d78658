# SPDX-License-Identifier: Apache-2.0
"""GAFF: active forgetting for unmodified GPT-NeoX, from the outside.

A supervisor launches the trainer for one *segment* of k iterations, makes a *reset* in the DeepSpeed checkpoint that
the segment wrote (re-initialise the token embedding in every *copy*, zero its Adam moments), resumes it, and repeats.

Packages, lowest first; an import may only go down this list::

    errors      what a person is told when something is wrong
    plan        GPT-NeoX config read and checked, the ``gaff:`` block, segments and resets, estimates
    checkpoint  one .pt file (archive) -> one tag (layout) -> surgery, verify
    data        corpora and Megatron .bin/.idx files
    trainers    the contract with a trainer; GPT-NeoX; the bundled trainer
    supervisor  the loop over segments, journal, child processes
    report      logs of a run -> metrics, terminal views, loss curve
    cli         one module per family of verbs
"""

__version__ = "0.1.0"
