#!/usr/bin/env bash
# Score under Slurm: tools/slurm_test.sh PARTITION JOB_NAME NUM_GPUS DATASET CHECKPOINT [options]
#   tools/slurm_test.sh gpu test 8 refcoco vpd_ris_refcoco.pth --token_length 40 --split testA
# Environment as for tools/slurm_train.sh.
set -euo pipefail
# sbatch runs a copy of this file from elsewhere; RIS_HOME then names the repository.
here=${RIS_HOME:+$RIS_HOME/tools}
here=${here:-$(cd "$(dirname "$0")" && pwd)}
source "$here/slurm_common.sh"
slurm_run test "$@"
