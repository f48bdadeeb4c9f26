#!/usr/bin/env bash
# Train under Slurm: tools/slurm_train.sh PARTITION JOB_NAME NUM_GPUS DATASET LOGDIR [options]
#   GPUS_PER_NODE=8 CPUS_PER_TASK=8 SRUN_ARGS="--time 24:00:00" \
#     tools/slurm_train.sh gpu refcoco 16 refcoco work_dirs/refcoco --token_length 40
# Survives preemption when submitted as a batch job, which Slurm may put back into the queue:
#   sbatch --partition gpu --nodes 2 --gres gpu:8 --ntasks-per-node 8 --requeue --signal USR1@180 \
#     --open-mode append tools/slurm_train.sh gpu refcoco 16 refcoco work_dirs/refcoco
# Environment: GPUS_PER_NODE (8, or NUM_GPUS where that is less), CPUS_PER_TASK (4), SRUN_ARGS,
# MASTER_PORT (29500), PYTHON (else an active environment or .venv), RIS_KEEP_HEAP (0: the allocator
# of CPU runs is left alone).
set -euo pipefail
# sbatch runs a copy of this file from elsewhere; RIS_HOME then names the repository.
here=${RIS_HOME:+$RIS_HOME/tools}
here=${here:-$(cd "$(dirname "$0")" && pwd)}
source "$here/slurm_common.sh"
slurm_run train "$@"
