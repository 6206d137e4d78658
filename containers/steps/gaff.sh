#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# GAFF itself, into the environment that has what it needs.
. "${0%/*}/common.sh"

build=$(mktemp -d)
cp -r "$IMAGE_DIR/source/." "$build"
find "$build" -name __pycache__ -type d -prune -exec rm -rf {} +
install_into "$GAFF_ENV" --no-deps "$build"
rm -rf "$build"
