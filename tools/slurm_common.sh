# What tools/slurm_train.sh and tools/slurm_test.sh share; sourced, not run.

# slurm_run train|test PARTITION JOB_NAME NUM_GPUS DATASET LOGDIR|CHECKPOINT [options of ris]
slurm_run() {
  local command=$1
  shift
  if [ $# -lt 5 ]; then
    sed -n '2,/^set /{/^set /d;s/^# \{0,1\}//p}' "$0" >&2
    exit 2
  fi
  local partition=$1 job=$2 gpus=$3 dataset=$4 place=$5
  shift 5
  case $gpus in '' | *[!0-9]* | 0)
    echo "$(basename "$0"): NUM_GPUS must be a number of 1 or more, got '$gpus'" >&2
    exit 2
    ;;
  esac
  local per_node=${GPUS_PER_NODE:-$((gpus < 8 ? gpus : 8))}
  if [ $((gpus % per_node)) -ne 0 ]; then
    echo "$(basename "$0"): NUM_GPUS $gpus is no multiple of GPUS_PER_NODE $per_node" >&2
    exit 2
  fi
  local root
  root=$(cd "$here/.." && pwd)
  export PYTHONPATH=$root${PYTHONPATH:+:$PYTHONPATH} MASTER_PORT=${MASTER_PORT:-29500}
  local python
  source "$root/tools/interpreter.sh"
  source "$root/tools/waiting.sh"
  choose_python "$root"
  local target=(--checkpoint "$place")
  if [ "$command" = train ]; then
    target=(--logdir "$place" --resume auto) # a --resume of the user's comes later, and counts
    mkdir -p "$place"
    rm -f "$place/resume/stopped"
  fi
  # One task a GPU; ris reads its rank from Slurm's variables.
  # shellcheck disable=SC2086  # SRUN_ARGS holds several words
  srun --partition="$partition" --job-name="$job" --gres="gpu:$per_node" --ntasks="$gpus" \
    --ntasks-per-node="$per_node" --cpus-per-task="${CPUS_PER_TASK:-4}" --kill-on-bad-exit=1 \
    ${SRUN_ARGS:-} "$python" -m ris.cli "$command" --dataset "$dataset" "${target[@]}" "$@" &
  local pid=$! code=0 name
  for name in TERM USR1; do trap "kill -$name $pid 2>/dev/null || true" "$name"; done
  wait_for "$pid"
  if [ "$command" = train ] && [ -e "$place/resume/stopped" ]; then
    code=75
    # Stopped with its state saved: back into the queue, where this is a batch job.
    if [ -n "${SLURM_JOB_ID:-}" ]; then scontrol requeue "$SLURM_JOB_ID"; fi
  fi
  exit "$code"
}
