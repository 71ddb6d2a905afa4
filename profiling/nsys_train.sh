#!/bin/sh
# A timeline of training in Nsight Systems: profiling/nsys_train.sh [flags of train.dqn]
#
# NVTX ranges name the phases (collect, sample, target, segment, optimiser, evaluate). Without
# --no-cuda-graph a whole cycle is one graph: its kernels are shown one by one, its phases are not.
# Writes profiling/results/gpu/train.nsys-rep and a summary of kernels and ranges.
set -eu
cd "$(dirname "$0")/.."
command -v nsys >/dev/null || { echo "nsys not found: expected Nsight Systems on PATH" >&2; exit 2; }
out=profiling/results/gpu
mkdir -p "$out"
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
nsys profile --force-overwrite=true --output="$out/train" --trace=cuda,nvtx,osrt \
    --cuda-graph-trace=node --delay=20 --duration=10 \
    python -m train.dqn --device cuda --run-dir "$folder/run" --eval-every 1000000 "$@"
nsys stats --force-export=true --report cuda_gpu_kern_sum,nvtx_sum "$out/train.nsys-rep"
