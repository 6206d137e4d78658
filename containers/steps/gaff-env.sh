#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# What GAFF needs, without GAFF, so that a change of GAFF builds nothing of this anew: an empty package of the same
# description is installed and taken away again.  The CPU variant has the bundled trainer's packages too.
. "${0%/*}/common.sh"

empty=$(mktemp -d)
cp "$IMAGE_DIR/source/pyproject.toml" "$empty"
touch "$empty/README.md"
if [ "$VARIANT" = cpu ]; then
    new_environment "$GAFF_ENV" torch
    install_into "$GAFF_ENV" "$(torch_kept "$GAFF_ENV")" "${empty}[bundled]"
else
    new_environment "$GAFF_ENV"
    install_into "$GAFF_ENV" "$empty"
fi
"$GAFF_ENV/bin/python" -m pip uninstall --quiet --yes gaff
rm -rf "$empty"
