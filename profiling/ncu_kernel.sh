#!/bin/sh
# Everything Nsight Compute knows of one kernel at the published shape:
# profiling/ncu_kernel.sh OP [KERNEL], e.g. swiglu_block, or attention_block backward.
#
# OP: a check of profiling/gpu_check.py --kernel; KERNEL: a part of the kernel's name, if it has
# several. Writes profiling/results/gpu/OP.ncu-rep and prints its sections.
set -eu
cd "$(dirname "$0")/.."
[ $# -ge 1 ] || { echo "usage: profiling/ncu_kernel.sh OP [KERNEL]" >&2; exit 2; }
command -v ncu >/dev/null || { echo "ncu not found: expected Nsight Compute on PATH" >&2; exit 2; }
out=profiling/results/gpu
mkdir -p "$out"
ncu --set full --force-overwrite --export "$out/$1" --kernel-name "regex:${2:-.}" \
    --launch-skip 20 --launch-count 3 \
    python profiling/gpu_check.py --only checks --kernel "$1"
ncu --import "$out/$1.ncu-rep" --page details
