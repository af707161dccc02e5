#!/usr/bin/env bash
# One node with 8 GPUs (or $GPUS of them):
#   bash recipes/ilsvrc/one-node.sh recipes/ilsvrc/vgg16-gap.yaml --set data.root=data/ILSVRC
# The recipe's batch of 256 photos is the total over all GPUs, 32 each: steps and learning rate do not change.
# If run again, it continues after the last finished epoch.
set -euo pipefail
recipe=$1
shift
exec torchrun --standalone --nproc-per-node "${GPUS:-8}" \
  -m sightline train "$recipe" --resume --set run.accelerator=gpu "$@"
