# SPDX-License-Identifier: Apache-2.0
# shellcheck shell=bash
# What every step begins with: versions, places and the build arguments.  Sourced, never run.
set -euo pipefail

IMAGE_DIR=/opt/image          # what the image is made from, and what it was made of
NEOX_DIR=/opt/gpt-neox        # the default of `gaff: container: neox_dir`
NEOX_ENV=/opt/neox-env        # GPT-NeoX's packages, which clash with GAFF's
GAFF_ENV=/opt/gaff            # GAFF's
export NEOX_DIR NEOX_ENV GAFF_ENV

# shellcheck source=containers/versions.env
. "$IMAGE_DIR/versions.env"
export CXX CC

VARIANT=${VARIANT:-gpu}
case $VARIANT in
    gpu | cpu) ;;
    *) echo "VARIANT is $VARIANT; it can be gpu or cpu" >&2 && exit 1 ;;
esac

given() { # NAME DEFAULT: the build argument of that name; DEFAULT where that is empty or `default`
    local argument=${!1:-default}
    [ "$argument" != default ] || argument=$2
    printf '%s' "$argument"
}

of_variant() { # NAME: the build argument of that name, else the value for this variant
    local default="$1_${VARIANT^^}"
    given "$1" "${!default}"
}

TORCH=$(of_variant TORCH)
DEEPSPEED=$(of_variant DEEPSPEED)
NEOX_PACKAGES=$(of_variant NEOX_PACKAGES)
FLASH_ATTN=$(of_variant FLASH_ATTN)
CUDA_ARCHITECTURES=$(of_variant CUDA_ARCHITECTURES)
NEOX_SOURCE=$(given NEOX_SOURCE "$NEOX_REPOSITORY") # what git can fetch from; `none`: bundled trainer alone
MAX_JOBS=$(given MAX_JOBS "$(nproc)")
export MAX_JOBS TORCH DEEPSPEED NEOX_PACKAGES FLASH_ATTN CUDA_ARCHITECTURES

say() { echo "== ${0##*/}: $*"; }

has_neox() { [ "$NEOX_SOURCE" != none ]; }

new_environment() { # DIRECTORY [torch]: an environment with pip, and with torch
    local words
    python3 -m venv "$1"
    install_into "$1" "$PIP"
    [ "${2:-}" = torch ] || return 0
    read -ra words <<<"$TORCH"
    install_into "$1" "${words[@]}"
}

install_into() { # DIRECTORY REQUIREMENT...: pip's words; versions that a constraints file names are kept to
    local environment=$1 file
    local pip=("$environment/bin/python" -m pip --no-input --disable-pip-version-check)
    shift
    file=$IMAGE_DIR/constraints/${environment##*/}-$VARIANT.txt
    [ ! -s "$file" ] || set -- --constraint "$file" "$@"
    "${pip[@]}" install --no-cache-dir --progress-bar off "$@"
}

torch_kept() { # DIRECTORY: the requirement that keeps the torch that is there
    "$1/bin/python" -c 'from importlib.metadata import version; print("torch==" + version("torch"))'
}
