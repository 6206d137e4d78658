# SPDX-License-Identifier: Apache-2.0
"""One tag understood: where every copy of every parameter lives, in every layout that GPT-NeoX writes.

``parameter`` (words) -> ``layout`` (the result) -> ``draft`` (being put together) -> ``weights``, ``shards``,
``zero3``, ``unsharded`` (readers of one kind of file each) -> ``read`` (which of them a tag needs).
"""
