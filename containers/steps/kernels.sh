#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# What GPT-NeoX compiles at its starts, compiled ahead: its data helper and, for GPUs, its three fused kernels.
. "${0%/*}/common.sh"

if ! has_neox; then
    say "left out"
    exit 0
fi
export PATH=$NEOX_ENV/bin:$PATH PYTHONDONTWRITEBYTECODE=1
make -C "$NEOX_DIR/megatron/data"
[ "$VARIANT" = gpu ] || exit 0

# GPT-NeoX's build files give nvcc architectures of their own; what is appended here comes on top.
NVCC_APPEND_FLAGS=
for architecture in $CUDA_ARCHITECTURES; do
    number=${architecture//./}
    NVCC_APPEND_FLAGS+=" -gencode arch=compute_$number,code=sm_$number"
done
export NVCC_APPEND_FLAGS

# GPT-NeoX imports the kernels by name, from a package, after it has torch compile them at every start.  The package is
# built from a copy: pip would leave its own files in the tree.
copy=$(mktemp -d)
cp -r "$NEOX_DIR/megatron/fused_kernels" "$copy"
install_into "$NEOX_ENV" --no-build-isolation --no-deps "$copy/fused_kernels"
rm -rf "$copy"

# torch finds this folder as it would build it and compiles nothing, but takes a lock in it each time, so everybody has
# to be able to write there; in a read-only image, Apptainer's, that needs --writable-tmpfs.
cd "$NEOX_DIR"
python -c 'from megatron import fused_kernels; fused_kernels.load()'
rm -f megatron/fused_kernels/build/lock
chmod -R a+rwX megatron/fused_kernels/build
