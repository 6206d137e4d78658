#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# System packages: Python with headers, compilers, git; for GPUs also what several nodes and InfiniBand need.
. "${0%/*}/common.sh"

packages=(
    ca-certificates git make g++        # GPT-NeoX makes its data helper with g++
    python3 python3-dev python3-venv    # headers: the helper and kernels are compiled against them
    procps                              # DeepSpeed's launcher ends ranks with pkill
)
[ "$VARIANT" = cpu ] || packages+=(
    openssh-client pdsh                          # DeepSpeed's default launcher
    libopenmpi-dev openmpi-bin                   # `launcher: openmpi`, and mpi4py
    ibverbs-providers libibverbs1 librdmacm1     # NCCL loads them where there is InfiniBand
)
export DEBIAN_FRONTEND=noninteractive
apt-get update
apt-get install --yes --no-install-recommends "${packages[@]}"
rm -rf /var/lib/apt/lists/*

if [ "$VARIANT" = gpu ] && ! command -v nvcc >/dev/null; then
    echo "the base image has no nvcc: BASE must be a CUDA image of the kind \"devel\", or VARIANT cpu" >&2
    exit 1
fi
