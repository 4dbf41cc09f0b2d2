#!/usr/bin/env bash
#SBATCH --job-name=jaxtl
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=8
#SBATCH --gpus-per-node=8
#SBATCH --cpus-per-task=12
#SBATCH --time=24:00:00
#SBATCH --signal=TERM@120
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --output=slurm-%j.log
# SLURM, GPUs of several nodes, one process a GPU:
#
#   sbatch launch/slurm.sh --config=configs/vit_flowers.py --workdir=/shared/runs/flowers
#   sbatch --nodes=1 --ntasks-per-node=4 --gpus-per-node=4 launch/slurm.sh ...  # flags win over what stands above
#
# Environment: a checkout on a file system that all nodes see, with `python3 -m venv .venv && .venv/bin/pip install -e
# '.[cuda]'`; VENV names another one. Workdir and data lie there too. JAX finds its processes by SLURM's own variables.
#
# Restarts: two minutes before the time is up, or when the job is preempted, SLURM sends SIGTERM; the run saves, exits
# with 75 and is put back into the queue. When a process dies, srun ends the others (SIGTERM, then SIGKILL after
# KillWait), and all start again after 10, 20, 40, ... seconds, RETRIES (5) times. 1 and 2 are for a person to fix: the
# job ends.
#
# Logs: slurm-JOB.log, `tail -f` it; metrics in WORKDIR/metrics.jsonl. TensorBoard, on the login node: `pip
# install tensorboard`, `tensorboard --logdir WORKDIR --port 6006`, and on your machine `ssh -L 6006:localhost:6006
# LOGIN`; then open localhost:6006.
set -uo pipefail
: "${SLURM_JOB_ID:?start this with sbatch}"
cd "${SLURM_SUBMIT_DIR:-.}" || exit 1
export PATH="${VENV:-$PWD/.venv}/bin:$PATH"
retries=${RETRIES:-5}
# SLURM's signal is for the processes; this script waits for them. What it ignored, they would ignore too.
trap : TERM
for ((try = 0; ; try++)); do
  srun --kill-on-bad-exit=1 python -m jaxtl.main "$@"
  status=$?
  case $status in
  0 | 1 | 2) exit "$status" ;;
  75)
    echo "saved; back into the queue" >&2
    scontrol requeue "$SLURM_JOB_ID"
    exit 75
    ;;
  esac
  if ((try >= retries)); then
    echo "gave up after $try tries, last exit status $status" >&2
    exit "$status"
  fi
  echo "exit status $status; starts again in $((10 * 2 ** try)) s" >&2
  sleep $((10 * 2 ** try))
done
