#!/usr/bin/env bash
# Score a checkpoint: bash test.sh DATASET CHECKPOINT [options of `ris test`]
#   bash test.sh refcoco  vpd_ris_refcoco.pth --token_length 40 --split testA
#   bash test.sh refcocog vpd_ris_gref.pth    --token_length 77 --splitBy umd
# NUM_GPUS (environment, default 1) shards the split over GPUs; without a GPU the CPU is used.
# Python: $PYTHON, an active environment, .venv, or the first on the path, in this order.
# On the CPU freed memory is kept, which is faster; RIS_KEEP_HEAP=0 leaves the allocator alone.
set -euo pipefail
if [ $# -lt 2 ]; then
  sed -n '2,7s/^# //p' "$0" >&2
  exit 2
fi
dataset=$1 checkpoint=$2
shift 2
here=$(cd "$(dirname "$0")" && pwd)
export PYTHONPATH=$here${PYTHONPATH:+:$PYTHONPATH}
source "$here/tools/interpreter.sh"
choose_python "$here"
gpus=${NUM_GPUS:-1}
case $gpus in '' | *[!0-9]*)
  echo "test.sh: NUM_GPUS must be a number, got '$gpus'" >&2
  exit 2
  ;;
esac
if [ "$gpus" -gt 1 ]; then
  launch=("$python" -m torch.distributed.run --nproc_per_node "$gpus"
    --master_port "${MASTER_PORT:-29500}" -m ris.cli)
else
  launch=("$python" -m ris.cli)
fi
exec "${launch[@]}" test --dataset "$dataset" --checkpoint "$checkpoint" "$@"
