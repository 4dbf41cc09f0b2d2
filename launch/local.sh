#!/usr/bin/env bash
# One machine: runs a command of jaxtl and starts it again when it dies; a run continues where it stopped.
#
#   launch/local.sh --config=configs/vit_flowers.py:ti16 --workdir=runs/flowers
#
# Exit status: that of the run. A problem that only a person can mend (1: explained in a line, 2: wrong usage) is not tried again.
# RETRIES (5) bounds how often it is; between two tries it waits 1, 2, 4, ... seconds.
set -uo pipefail
retries=${RETRIES:-5}
for ((try = 0; ; try++)); do
  python -m jaxtl.main "$@"
  status=$?
  case $status in 0 | 1 | 2 | 130) exit "$status" ;; esac
  if ((try >= retries)); then
    echo "gave up after $try tries, last exit status $status" >&2
    exit "$status"
  fi
  echo "exit status $status; starts again in $((2 ** try)) s" >&2
  sleep $((2 ** try))
done
