#!/bin/bash
#SBATCH --job-name=stage1
#SBATCH --array=0-2%4
#SBATCH --time=08:00:00
#SBATCH --nodes=1
#SBATCH --ntasks-per-node=1
#SBATCH --cpus-per-task=1
#SBATCH --signal=USR1@120
#SBATCH --output=/home/me/project/runs/stage1/logs/slurm-%A_%a.out
#SBATCH --open-mode=append
#SBATCH --requeue

cd /home/me/project || exit 2
run=/home/me/project/runs/stage1
members=(
    seed-1
    seed-2
    'it'"'"'s-3'
)
run="$run/${members[$SLURM_ARRAY_TASK_ID]}"
logs="$run/logs"
code=/home/me/project/runs/stage1/submitted/code
python=/env/bin/python
export PYTHONUNBUFFERED=1 HF_HUB_OFFLINE=1 HF_DATASETS_OFFLINE=1
export PYTHONPATH="$code${PYTHONPATH:+:$PYTHONPATH}"
export OMP_NUM_THREADS=1
export SRUN_CPUS_PER_TASK=1  # srun does not take it from sbatch since 22.05

# One log for every attempt: a requeue would write over it.
attempt=0
while [ -e "$logs/attempt-$attempt.out" ]; do attempt=$((attempt + 1)); done
exec > "$logs/attempt-$attempt.out" 2>&1
patterns="${logs//%/%%}"  # srun reads % in names
echo "job $SLURM_JOB_ID on $SLURM_JOB_NODELIST, $(date)"

# Signals wait until Python listens; where env cannot hold them back they are heard a moment later.
hold=()
env --block-signal=USR1,USR2,TERM true 2> /dev/null && hold=(env --block-signal=USR1,USR2,TERM)

# Slurm signals the ranks itself. This script outlives the signal and waits until all of them have saved.
trap : TERM USR1 USR2
srun --kill-on-bad-exit=1 --output="$patterns/attempt-$attempt-rank-%t.out" \
    "${hold[@]}" "$python" -m medtuner train "$run/submitted/config.toml" < /dev/null &
ranks=$!
wait "$ranks"; status=$?
while kill -0 "$ranks" 2> /dev/null; do wait "$ranks"; status=$?; done
echo "srun ended with $status, $(date)"

# The run folder says what became of the run, not the exit code. 75: stopped after saving, to be requeued.
"$python" -m medtuner settle "$run" --code "$status" --log "$logs/attempt-$attempt-rank-0.out"; status=$?
if [ "$status" = 75 ]; then
    scontrol requeue "${SLURM_ARRAY_JOB_ID:+${SLURM_ARRAY_JOB_ID}_}${SLURM_ARRAY_TASK_ID:-$SLURM_JOB_ID}" && exit 3
    echo "Slurm refused the requeue (it may be requeueing already)."; exit 3
fi
exit "$status"
