#!/usr/bin/env bash
# A million molecules by all cores of a few nodes; submit the same file again to go on after a time limit or a crash.
#SBATCH --job-name=sciar
#SBATCH --nodes=4
#SBATCH --ntasks-per-node=1
#SBATCH --cpus-per-task=32
#SBATCH --time=12:00:00
# with GPUs: #SBATCH --gpus-per-node=4, and --num-gpus "$SLURM_GPUS_ON_NODE" after each `ray start`
set -euo pipefail
export OMP_NUM_THREADS=1 RAY_AUTH_MODE=token
head=$(hostname) port=${PORT:-6379} others=$((SLURM_JOB_NUM_NODES - 1))

ray get-auth-token --generate > /dev/null # Ray 2.52 or newer; in the home folder, which the nodes share
ray start --head --port "$port" --num-cpus "$SLURM_CPUS_PER_TASK" --disable-usage-stats
trap 'ray stop' EXIT
if ((others)); then
    srun --nodes "$others" --ntasks "$others" --exclude "$head" \
        ray start --address "$head:$port" --num-cpus "$SLURM_CPUS_PER_TASK" --block &
fi
sciar generate molecule -n "${N:-1000000}" --seed 0 --ray "$head:$port" --workers $((SLURM_JOB_NUM_NODES * SLURM_CPUS_PER_TASK)) \
    --shard "${SHARD:-1000}" -o "${OUT:-molecules}"
