#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# A user without rights, and two directories that any other id may write to as well: its home and /work.  And a note of
# what the image was built with, for its check: build arguments are gone when it runs.
. "${0%/*}/common.sh"

useradd --uid 1000 --user-group --create-home --shell /bin/bash gaff
install --directory --mode=1777 /work
chmod 1777 /home/gaff
declare -p VARIANT TORCH NEOX_SOURCE NEOX_PACKAGES CUDA_ARCHITECTURES FLASH_ATTN >"$IMAGE_DIR/built.env"
