#!/bin/bash
# Indexes a large folder of videos on many machines; every task is one shard.
#
#     sbatch --nodes=4 examples/index_slurm.sh /data/videos /data/clip /data/videos.index
#
# A task that fails or is killed is run again by the same command: what is done is kept.
#SBATCH --job-name=index
#SBATCH --ntasks-per-node=1
#SBATCH --cpus-per-task=16
set -eu
videos=$1 checkpoint=$2 index=$3
# Each task finds its number and their count in SLURM_PROCID and SLURM_NTASKS.
srun .venv/bin/python -m vop_jax.search index --videos="$videos" \
    --checkpoint="$checkpoint" --output="$index" --shard=auto
# One process at the end joins small files and measures the index as a whole.
.venv/bin/python -m vop_jax.search index --videos="$videos" \
    --checkpoint="$checkpoint" --output="$index"
