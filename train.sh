#!/usr/bin/env bash
# Train a referring segmenter: bash train.sh DATASET LOGDIR NUM_GPUS [options of `ris train`]
#   bash train.sh refcoco  LOGDIR 8 --token_length 40
#   bash train.sh refcocog LOGDIR 8 --token_length 77 --splitBy umd
# 0 GPUs: one process on the CPU. Several machines: set NNODES, NODE_RANK, MASTER_ADDR, MASTER_PORT.
# MAX_RESTARTS=3: a killed process brings all back, up to 3 times, from the latest saved state.
# Python: $PYTHON, an active environment, .venv, or the first on the path, in this order.
# On the CPU freed memory is kept, which is faster; RIS_KEEP_HEAP=0 leaves the allocator alone.
# Exit code 75: stopped by a signal with its state saved; repeat the command with --resume auto.
set -euo pipefail
if [ $# -lt 3 ]; then
  sed -n '2,9s/^# //p' "$0" >&2
  exit 2
fi
dataset=$1 logdir=$2 gpus=$3
shift 3
case $gpus in '' | *[!0-9]*)
  echo "train.sh: NUM_GPUS must be a number (0 for the CPU), got '$gpus'" >&2
  exit 2
  ;;
esac
here=$(cd "$(dirname "$0")" && pwd)
export PYTHONPATH=$here${PYTHONPATH:+:$PYTHONPATH}
source "$here/tools/interpreter.sh"
source "$here/tools/waiting.sh"
choose_python "$here"
mkdir -p "$logdir"
if [ "$gpus" -eq 0 ]; then
  launch=("$python" -m ris.cli)
  device=(--device cpu)
else
  launch=("$python" -m torch.distributed.run --nproc_per_node "$gpus" --nnodes "${NNODES:-1}"
    --node_rank "${NODE_RANK:-0}" --master_addr "${MASTER_ADDR:-127.0.0.1}"
    --master_port "${MASTER_PORT:-29500}" --max_restarts "${MAX_RESTARTS:-0}" -m ris.cli)
  device=(--device cuda)
  # torchrun kills what has not ended this many seconds after a signal, 30 by default: too few to
  # write the state of a fine-tuned Stable Diffusion. (torch 2.13 reads it, older ones may not.)
  export TORCH_ELASTIC_SHUTDOWN_TIMEOUT=${TORCH_ELASTIC_SHUTDOWN_TIMEOUT:-600}
fi
rm -f "$logdir/resume/stopped"
"${launch[@]}" train --dataset "$dataset" --logdir "$logdir" "${device[@]}" "$@" \
  > >(tee -ia "$logdir/log.txt") 2>&1 &
pid=$!
# A scheduler signals this shell; the run must hear it. As a job in the background it is deaf to INT
# until training listens for it, so Ctrl-C reaches it as TERM; and so does USR1, which would end
# torchrun alone and leave its processes behind.
for name in TERM USR1 INT; do trap "kill -TERM $pid 2>/dev/null || true" "$name"; done
wait_for "$pid"
# torchrun gives a code of its own when it is stopped.
[ ! -e "$logdir/resume/stopped" ] || code=75
exit "$code"
