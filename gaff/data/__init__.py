# SPDX-License-Identifier: Apache-2.0
"""Text and tokens on disk: Megatron ``.bin/.idx`` files, samples over them, tokenizers, and an English corpus.

Not here: what a trainer does with a sample, and which data a config asks for.
"""
