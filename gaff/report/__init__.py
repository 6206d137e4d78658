# SPDX-License-Identifier: Apache-2.0
"""What a person sees of a run: live while it trains, and afterwards as numbers, a picture and a page.

Everything is read from the run directory (journal, logs, the lock, which tags are whole) or told by the supervisor
through its observer; nothing here starts, stops or changes a run, and nothing reads a tensor.

* point: one iteration line of the trainer that belongs to the run's final history (:mod:`.metrics`)
* recovery: how the loss came back after one reset (:mod:`.recovery`)
* boundary: what lies between the last iteration of one segment and the first of the next (:mod:`.progress`)
"""
