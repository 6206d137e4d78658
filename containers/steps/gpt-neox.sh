#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Unmodified GPT-NeoX at the pinned commit.
. "${0%/*}/common.sh"

if ! has_neox; then
    say "left out"
    exit 0
fi
# It is owned by root, and git, which GPT-NeoX and GAFF ask for the commit, refuses other people's trees by default.
git config --system --add safe.directory '*'
git init --quiet "$NEOX_DIR"
git -C "$NEOX_DIR" fetch --quiet --depth 1 "$NEOX_SOURCE" "$NEOX_COMMIT"
git -C "$NEOX_DIR" -c advice.detachedHead=false checkout --quiet "$NEOX_COMMIT"
say "$(git -C "$NEOX_DIR" log -1 --format='%H of %cs')"
