#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Flash attention, compiled from its source: the longest step of all.  Its own list of architectures holds 8.0 and 9.0.
. "${0%/*}/common.sh"

if ! has_neox || [ "$FLASH_ATTN" = none ]; then
    say "left out"
    exit 0
fi
FLASH_ATTENTION_FORCE_BUILD=TRUE install_into "$NEOX_ENV" --no-build-isolation "$(torch_kept "$NEOX_ENV")" "$FLASH_ATTN"
