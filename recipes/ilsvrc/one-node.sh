#!/usr/bin/env bash
# One node with 8 GPUs (or GPUS of them):
#   bash recipes/ilsvrc/one-node.sh recipes/ilsvrc/vgg16-gap.yaml --set data.root=data/ILSVRC
# The recipe's batch of 256 photos is that of all GPUs together, 32 on each: steps and rate stay as they are.
# Run again, it goes on after the last finished epoch.
set -euo pipefail
recipe=$1
shift
exec torchrun --standalone --nproc-per-node "${GPUS:-8}" \
  -m sightline train "$recipe" --resume --set run.accelerator=gpu "$@"
