#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# GPT-NeoX's packages, in an environment of their own.  For GPUs DeepSpeed's Adam is compiled ahead into its package,
# where any user and a read-only image find it and no compiler's name matters.  For the CPU it is not: DeepSpeed
# compiles that with -march=native, so it belongs to the machine that it runs on, and is made there at the first start.
. "${0%/*}/common.sh"

if ! has_neox; then
    say "left out"
    exit 0
fi
new_environment "$NEOX_ENV" torch
kept=$(torch_kept "$NEOX_ENV")
read -ra packages <<<"$NEOX_PACKAGES"
read -ra tools <<<"$BUILD_TOOLS" # each time: torch brings a setuptools that is too new for GPT-NeoX

if [ "$VARIANT" = cpu ]; then
    install_into "$NEOX_ENV" "$kept" "$DEEPSPEED" "${packages[@]}" "${tools[@]}"
    exit 0
fi

listed=$NEOX_DIR/requirements/requirements.txt
if ! grep -q "^deepspeed@git+.*@$DEEPSPEED_COMMIT" "$listed"; then
    echo "this GPT-NeoX asks for another DeeperSpeed than versions.env: $(grep '^deepspeed' "$listed")" >&2
    exit 1
fi
# With torch visible to the build, and told what to build for: there need not be a GPU here.  Where there is none
# DeepSpeed, which imports itself to be built, fails in asking it whether Triton would work, so Triton is hidden.
install_into "$NEOX_ENV" "${tools[@]}" py-cpuinfo psutil
hidden=$(mktemp -d)
echo 'raise ImportError("hidden while DeepSpeed is built")' >"$hidden/triton.py"
PYTHONPATH=$hidden DS_BUILD_FUSED_ADAM=1 DS_ACCELERATOR=cuda TORCH_CUDA_ARCH_LIST=$CUDA_ARCHITECTURES \
    install_into "$NEOX_ENV" --no-build-isolation "$kept" "$DEEPSPEED"
rm -r "$hidden"
others=$(mktemp)
grep -v '^deepspeed@' "$listed" >"$others"
install_into "$NEOX_ENV" --requirement "$others" "$kept" "${packages[@]}" "${tools[@]}"
rm "$others"
