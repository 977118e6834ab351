#!/usr/bin/env bash
# One detection run over several GPU nodes under SLURM. A job that is pre-empted is queued again and goes on.
#
#   sbatch --nodes 2 --gpus-per-node 4 examples/slurm.sh --model_id PATH --dataset examples/sdv1_500_memorized.jsonl
#
# Arguments go to detect_mem.py, or to the script that SCRIPT names. The clone and --output_dir have to be on a file
# system that all nodes see. .venv is made beforehand, on the login node, by any script of examples/.
#SBATCH --ntasks-per-node=1
#SBATCH --requeue
#SBATCH --open-mode=append
set -euo pipefail
cd "${SLURM_SUBMIT_DIR:?start it by sbatch, from the root of the clone}"
address=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)
processes=$((SLURM_NNODES * SLURM_GPUS_ON_NODE))
port=$((20000 + SLURM_JOB_ID % 20000))
launch=(.venv/bin/accelerate launch --multi_gpu --num_machines "$SLURM_NNODES" --num_processes "$processes"
    --main_process_ip "$address" --main_process_port "$port" --mixed_precision no --dynamo_backend no)
# shellcheck disable=SC2016  # the rank of a machine is known on that machine only
srun --kill-on-bad-exit=1 bash -c '"${@:2:$1}" --machine_rank "$SLURM_NODEID" "${@:$1+2}"' \
    launch "${#launch[@]}" "${launch[@]}" "${SCRIPT:-detect_mem.py}" "$@"
