#!/bin/bash
# sbatch recipes/accelerate/slurm.sh --config recipes/digits-vit/jit.yaml
# From the project's folder, on a file system that all nodes share. SLURM sends SIGINT two minutes before time is up: the run
# saves a checkpoint and ends, and the same job with `--resume true` goes on from it.
#SBATCH --job-name=unlearn
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node=4
#SBATCH --cpus-per-task=16
#SBATCH --time=04:00:00
#SBATCH --signal=INT@120
#SBATCH --output=%x-%j.log
set -euo pipefail

gpus="${SLURM_GPUS_ON_NODE:?start this with sbatch}"
first="$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)"
port=$((20000 + SLURM_JOB_ID % 20000))

# One launcher on each node; its number is known there alone.
srun bash -c 'exec accelerate launch \
    --config_file recipes/accelerate/multi_node.yaml \
    --num_machines "$SLURM_NNODES" --num_processes "$((SLURM_NNODES * '"$gpus"'))" --machine_rank "$SLURM_NODEID" \
    --main_process_ip '"$first"' --main_process_port '"$port"' \
    recipes/unlearn.py "$@"' unlearn "$@"
