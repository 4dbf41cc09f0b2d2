#!/usr/bin/env bash
# One machine: runs a command of jaxtl, as one process or several, and starts it again when it dies; a run continues
# where it stopped.
#
#   launch/local.sh --config=configs/vit_flowers.py:ti16 --workdir=runs/flowers
#   PROCESSES=2 JAX_PLATFORMS=cpu launch/local.sh --config=...     # two processes that train one model
#
# Environment: `pip install -e .`, with [cuda] or [tpu] where there is such a device. One process drives all devices
# of a machine; several are for trying out here what several machines do. They find each other by
# JAX_COORDINATOR_ADDRESS, JAX_NUM_PROCESSES and JAX_PROCESS_ID, which this script sets.
#
# Exit status: that of the run. What only a person can fix (1: explained in a line, 2: wrong usage) is not tried
# again. 75 means "saved, start me again": done at once, and not counted. Anything else, such as 76 (other processes are
# missing or gone), is tried again after 1, 2, 4, ... seconds, RETRIES (5) times; a try that lasted ten minutes clears
# the count.
# When one of several processes dies, the others wait for it for ever: they get SIGTERM, GRACE (30) seconds to save
# what they can, and SIGKILL. SIGTERM to this script goes to the processes, which save and end; nothing is started
# again then.
#
# Logs: on the screen and in WORKDIR/metrics.jsonl. TensorBoard: `pip install tensorboard`, then `tensorboard --logdir
# WORKDIR`.
set -uo pipefail
retries=${RETRIES:-5} processes=${PROCESSES:-1} grace=${GRACE:-30}
pids=() timer='' stopping=''

# Ends what still runs, at the latest after the grace.
stop() {
  [[ -n $timer || ${#pids[@]} -eq 0 ]] && return
  kill -TERM "${pids[@]}" 2>/dev/null
  (
    trap 'kill $!' TERM # Else the sleep would outlive this script, and hold its output open.
    sleep "$grace" &
    wait $! && kill -KILL "${pids[@]}" 2>/dev/null
  ) &
  timer=$!
}

# Runs all processes to their end; returns the status of the first that failed.
attempt() {
  local rank ended status failed=0 left port=$((20000 + RANDOM % 20000))
  pids=() timer=''
  for ((rank = 0; rank < processes; rank++)); do
    if ((processes > 1)); then
      export JAX_COORDINATOR_ADDRESS=localhost:$port JAX_NUM_PROCESSES=$processes JAX_PROCESS_ID=$rank
    fi
    python -m jaxtl.main "$@" &
    pids+=($!)
  done
  while ((${#pids[@]})); do
    ended=''
    wait -n -p ended "${pids[@]}"
    status=$?
    [[ -z ${ended:-} ]] && continue # It was a signal that woke us.
    left=()
    for rank in "${pids[@]}"; do [[ $rank != "$ended" ]] && left+=("$rank"); done
    pids=("${left[@]}")
    if ((status)); then
      ((failed)) || failed=$status
      stop
    fi
  done
  [[ -n $timer ]] && kill "$timer" 2>/dev/null
  return "$failed"
}

trap 'stopping=1; stop' TERM
trap 'stopping=1; stop; exit 130' INT
try=0
while :; do
  begun=$SECONDS
  attempt "$@"
  status=$?
  case $status in 0 | 1 | 2 | 130) exit "$status" ;; esac
  [[ -n $stopping ]] && exit "$status"
  if ((status == 75)); then
    echo "exit status 75: saved; starts again" >&2
    continue
  fi
  ((SECONDS - begun >= 600)) && try=0
  if ((try >= retries)); then
    echo "gave up after $try tries, last exit status $status" >&2
    exit "$status"
  fi
  echo "exit status $status; starts again in $((2 ** try)) s" >&2
  sleep $((2 ** try)) &
  wait $! # A signal ends this, where it would wait for the end of a sleep.
  [[ -n $stopping ]] && exit "$status"
  try=$((try + 1))
done
