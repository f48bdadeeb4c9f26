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
fi
rm -f "$logdir/resume/stopped"
"${launch[@]}" train --dataset "$dataset" --logdir "$logdir" "${device[@]}" "$@" \
  > >(tee -ia "$logdir/log.txt") 2>&1 &
pid=$!
# A scheduler signals this shell; the run must hear it. As a job in the background it is deaf to INT
# until training listens for it, so Ctrl-C reaches it as TERM.
for name in TERM USR1; do trap "kill -$name $pid 2>/dev/null || true" "$name"; done
trap "kill -TERM $pid 2>/dev/null || true" INT
code=0
while :; do
  wait "$pid" && code=0 || code=$?
  kill -0 "$pid" 2>/dev/null || break
done
# A signal ended that wait, but the run was gone before the loop could look: ask for its own code.
# 127: this shell remembers none.
if [ "$code" -gt 128 ]; then
  wait "$pid" 2>/dev/null && own=0 || own=$?
  [ "$own" -eq 127 ] || code=$own
fi
# torchrun gives a code of its own when it is stopped.
[ ! -e "$logdir/resume/stopped" ] || code=75
exit "$code"
