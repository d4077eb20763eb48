#!/bin/bash
# Trains on the GPUs of several nodes, one task a GPU.
#
#     sbatch --nodes=2 --time=12:00:00 examples/train_slurm.sh \
#         msrvtt_9k /shared/clip /shared/data /shared/runs/vop_fc
#
# JAX joins the tasks by SLURM's variables and gives each the GPU of its number on the node,
# so every task has to see all of them. Before the time is over every task saves its state,
# and the job is queued again; so it is when a task or a node is lost. It then resumes.
#SBATCH --job-name=train
#SBATCH --gpus-per-node=8
#SBATCH --ntasks-per-node=8
#SBATCH --cpus-per-task=8
#SBATCH --signal=TERM@300
#SBATCH --requeue
#SBATCH --open-mode=append
set -eu
dataset=$1 backbone=$2 data=$3 run=$4
status=0
# A task that fails does not kill the others, which may be saving.
srun --gpu-bind=none --kill-on-bad-exit=0 .venv/bin/python -m vop_jax.main \
    --config="configs/vop.py:dataset=$dataset,backbone=$backbone" \
    --config.data_dir="$data" --workdir="$run" || status=$?
# 75: another process was lost; 143: SIGTERM, the state is saved.
if [ "$status" -eq 75 ] || [ "$status" -eq 143 ]; then
  state=$(squeue --noheader --job="$SLURM_JOB_ID" --format=%T)
  # One that was cancelled stays so, and one that fails every time ends.
  if [ "$state" = RUNNING ] && [ "${SLURM_RESTART_COUNT:-0}" -lt 20 ]; then
    scontrol requeue "$SLURM_JOB_ID"
  fi
fi
exit "$status"
