#!/bin/sh
# Everything Nsight Compute knows of one kernel at the published shape:
# profiling/ncu_kernel.sh OP [KERNEL], e.g. swiglu_block, or attention_block backward.
#
# OP: decide, maze (the CUDA C++ kernels), or a check of profiling/gpu_check.py --kernel (Triton's);
# KERNEL: a part of the kernel's name, if it has several. Writes profiling/results/gpu/OP.ncu-rep
# and prints its sections.
set -eu
cd "$(dirname "$0")/.."
[ $# -ge 1 ] || { echo "usage: profiling/ncu_kernel.sh OP [KERNEL]" >&2; exit 2; }
command -v ncu >/dev/null || { echo "ncu not found: expected Nsight Compute on PATH" >&2; exit 2; }
op=$1 name=${2:-.}
case $op in
decide) name=decide_kernel; set -- -m profiling.bench_train --device cuda --kernels cuda --repeats 1 ;;
maze) name=${2:-step_kernel}; set -- -m profiling.bench_maze ;;
*) set -- profiling/gpu_check.py --only checks --kernel "$op" ;;
esac
out=profiling/results/gpu
mkdir -p "$out"
ncu --set full --force-overwrite --export "$out/$op" --kernel-name "regex:$name" \
    --launch-skip 20 --launch-count 3 python "$@"
ncu --import "$out/$op.ncu-rep" --page details
