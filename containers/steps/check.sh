#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Whether the image is what it should be: the last step of a build, %test of gaff.def and, as `check.sh quick`, the
# HEALTHCHECK.  Needs no GPU and no rights, and leaves nothing behind.
set -euo pipefail
# shellcheck source=/dev/null
. "${0%/*}/../built.env"
. "${0%/*}/common.sh"
export PYTHONDONTWRITEBYTECODE=1

gaff --version
if [ -d "$NEOX_DIR" ]; then
    [ -f "$NEOX_DIR/deepy.py" ] && [ -x "$NEOX_ENV/bin/python" ]
fi
[ "${1:-full}" = full ] || exit 0

fail() {
    echo "$*" >&2
    exit 1
}

HOME=$(mktemp -d) # libraries keep caches there, which in the image's home would be this user's alone
export HOME
trap 'rm -rf "$HOME"' EXIT

gaff doctor --help >/dev/null
[ "$(command -v gaff)" = "$GAFF_ENV/bin/gaff" ] || fail "gaff on PATH is $(command -v gaff)"
"$GAFF_ENV/bin/python" - <<'PYTHON'
from importlib.resources import files

files("gaff.cluster").joinpath("templates", "gaff.sbatch").read_text()
PYTHON
[ "$("$CXX" -dumpfullversion 2>/dev/null)" ] || fail "$CXX does not run"
if [ "$VARIANT" = cpu ]; then
    "$GAFF_ENV/bin/python" -c 'import gaff.trainers.bundled.train'
fi
if ! [ -d "$NEOX_DIR" ]; then
    say "fine, without GPT-NeoX"
    exit 0
fi

[ "$(command -v python)" = "$NEOX_ENV/bin/python" ] || fail "python on PATH is $(command -v python)"
[ "$(git -C "$NEOX_DIR" rev-parse HEAD)" = "$NEOX_COMMIT" ] || fail "$NEOX_DIR is not at $NEOX_COMMIT"
[ -z "$(git -C "$NEOX_DIR" status --porcelain)" ] || fail "$NEOX_DIR is not as it was published"
cd "$NEOX_DIR"
# A make that has something to do fails here: the tree is not this user's.  -q says whether it has.
PATH=$NEOX_ENV/bin:$PATH make --silent --question -C megatron/data || fail "the data helper is not compiled for it"
DS_ACCELERATOR=cpu python - <<'PYTHON'
import os
from importlib.metadata import version

import megatron.training
from megatron.data import helpers

for requirement in (os.environ["TORCH"].split()[0], *os.environ["NEOX_PACKAGES"].split()):
    name, equals, wanted = requirement.partition("==")
    if equals and version(name).partition("+")[0] != wanted:
        raise SystemExit(f"{name} is {version(name)}, not {wanted}")
PYTHON
[ "$VARIANT" = gpu ] || { say "fine" && exit 0; }

packages=$(echo "$NEOX_ENV"/lib/python3*/site-packages)
for architecture in $CUDA_ARCHITECTURES; do
    if command -v cuobjdump >/dev/null; then
        wanted=sm_${architecture//./}
        for kernel in megatron/fused_kernels/build/*.so "$packages"/scaled_*.so "$packages"/deepspeed/ops/adam/*.so; do
            cuobjdump --list-elf "$kernel" | grep "$wanted" >/dev/null || fail "$kernel lacks $architecture"
        done
    fi
done
python - <<'PYTHON'
import runpy
from importlib.util import find_spec
from pathlib import Path

# DeepSpeed's record of its build; to import DeepSpeed for CUDA would take a GPU.
built = runpy.run_path(str(Path(find_spec("deepspeed").origin).with_name("git_version_info_installed.py")))
if not (built["installed_ops"]["fused_adam"] and built["accelerator_name"] == "cuda"):
    raise SystemExit("DeepSpeed's Adam is not compiled for CUDA")
PYTHON
if [ -w megatron/fused_kernels/build ]; then # else it is read-only, and so is what lies in it
    said=$(python -c 'from megatron import fused_kernels; fused_kernels.load()' 2>&1) || fail "$said"
    [ "$(grep -c "no work to do" <<<"$said")" = 3 ] || fail "fused kernels are compiled again at a start: $said"
fi
say "fine"
