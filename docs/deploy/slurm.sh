#!/bin/bash
# Train under Slurm, one process a node. Near the time limit the run saves its state, and the job queues itself again.
#
#   export WORKDIR=/shared/runs/punks    # a directory that all nodes see
#   sbatch docs/deploy/slurm.sh --config=punks_cfg --config.train.steps=200000
#
# What follows the script's name goes to `python -m ddpm_jax.main`. Submit from where that command runs: sbatch hands
# on the environment, and with it an activated virtual environment. README.md has the table of exit codes.
#
#SBATCH --job-name=ddpm_jax
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node=8
#SBATCH --cpus-per-task=16
#SBATCH --time=04:00:00
#SBATCH --signal=B:USR1@180
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --output=%x-%j.log

set -u
retries=${RETRIES:-3} # starts anew after crashes in a row

if [[ -z ${WORKDIR:-} ]]; then
  echo "WORKDIR is not set; export a directory that all nodes see, as in WORKDIR=/shared/runs/punks" >&2
  exit 65
fi
restarts=${SLURM_RESTART_COUNT:-0}
saved=$WORKDIR/slurm-$SLURM_JOB_ID.saved      # the number of the last start that followed a signal
export SAID=$WORKDIR/slurm-$SLURM_JOB_ID.codes # how each task ended
mkdir -p "$WORKDIR" && : >"$SAID"

# jax takes one GPU a task under Slurm unless it is told which: this task has the node's.
if ((${SLURM_GPUS_ON_NODE:-0} > 0)); then
  JAX_LOCAL_DEVICE_IDS=$(seq -s, 0 $((SLURM_GPUS_ON_NODE - 1)))
  export JAX_LOCAL_DEVICE_IDS
fi
export SRUN_CPUS_PER_TASK=${SLURM_CPUS_PER_TASK:-1} # srun no longer takes it from sbatch

# Where one task fails and the others end because of it, srun returns the highest code, not the cause: each is written
# down. The signals are meant for the command, which bash waits for.
# shellcheck disable=SC2329  # srun below runs its text
task() {
  trap : TERM INT USR1
  "$@"
  local code=$?
  { echo "$code" >>"$SAID"; } 2>/dev/null
  exit "$code"
}

queue_again() {
  echo "slurm.sh: $1; the job is queued again"
  scontrol requeue "$SLURM_JOB_ID" || echo "slurm.sh: scontrol requeue failed; submit the same command again" >&2
}

signalled=
cancelled=
trap 'signalled=1; kill -USR1 "$run"' USR1 # near the time limit Slurm signals this script alone: hand it on
trap 'cancelled=1' TERM # scancel, preemption or the limit: the tasks have it from Slurm itself

# A process that is left alone is killed after --wait seconds, and one that still saves has them.
srun --kill-on-bad-exit=0 --wait=120 bash -c "$(declare -f task); task \"\$@\"" task \
  python -m ddpm_jax.main --distributed=auto --workdir="$WORKDIR" "$@" &
run=$!
while kill -0 "$run" 2>/dev/null; do # not one long `wait`: a signal that comes just before it would wait with it
  sleep 1 &
  wait $!
done
wait "$run"
code=$?

# Who lost another process ends with 76: the other's own code says more, unless this script asked for the end.
told=" $(tr '\n' ' ' 2>/dev/null <"$SAID")"
for cause in 1 74 70 69 65; do
  [[ $told == *" $cause "* ]] && code=$cause
done
[[ $signalled && $told == *" 75 "* ]] && code=75
rm -f "$SAID"

if [[ $cancelled ]]; then
  echo "slurm.sh: ended by Slurm with code $code; it starts what it preempted again, and the same command goes on"
  exit "$code"
fi
case $code in
  0)
    rm -f "$saved"
    echo "slurm.sh: done"
    ;;
  75) # stopped by a signal, and saved where there was anything to save
    echo $((restarts + 1)) >"$saved"
    queue_again "a signal stopped it"
    ;;
  65 | 69 | 70) # bad input, workdir in use, diverged: the same command would end so again
    echo "slurm.sh: code $code is not tried again; the last line of the run says why" >&2
    ;;
  *) # 74, storage; 1, 76, 134, 137 and the like, a crash
    before=0
    [[ -r $saved ]] && before=$(<"$saved")
    if ((restarts - before < retries)); then
      queue_again "code $code, try $((restarts - before + 1)) of $retries"
    else
      echo "slurm.sh: code $code after $retries tries; submit the same command again once its cause is gone" >&2
    fi
    ;;
esac
exit "$code"
