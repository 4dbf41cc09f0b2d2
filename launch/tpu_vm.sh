#!/usr/bin/env bash
# A TPU VM, or all VMs of a pod slice: asks for it, installs jaxtl from this checkout, trains, and brings the run back.
#
#   NAME=flowers ZONE=us-west4-a TYPE=v5litepod-8 launch/tpu_vm.sh --config=configs/vit_flowers.py --workdir=runs/f
#   NAME=big ZONE=us-west4-a TYPE=v5litepod-64 SPOT=1 NFS=10.0.0.2:/share launch/tpu_vm.sh --config=... --workdir=...
#
# Needs gcloud with a project that may use TPUs. The TPU is asked for as a queued resource, and taken as it is when it
# is there already. VERSION is its software (v2-alpha-tpuv5-lite). All VMs of a slice must see workdir and data, and
# spot VMs lose their disks: NFS, such as a Filestore share, is mounted on jaxtl/runs and is a must for both.
#
# Restarts: on each VM launch/local.sh starts a process that died again; the processes of the other VMs notice within
# two minutes, abort, and are started again likewise. With SPOT=1, a TPU that was taken away is asked for again, and
# the run goes on from its last checkpoint, until it ends with 0, or with 1 or 2, which a person must fix.
# The TPU stays: `gcloud compute tpus queued-resources delete NAME --zone=ZONE --force` ends it.
#
# Logs: `gcloud compute tpus tpu-vm ssh NAME --zone=ZONE --worker=0 --command='tail -f jaxtl/train.log'`.
# TensorBoard: the same with --command='jaxtl/.venv/bin/pip install -q tensorboard && jaxtl/.venv/bin/tensorboard
# --logdir jaxtl/runs' and, at the end, `-- -L 6006:localhost:6006`; then open localhost:6006.
set -euo pipefail
: "${NAME:?give NAME, the name of the TPU}" "${ZONE:?give ZONE}" "${TYPE:?give TYPE, the accelerator type}"
version=${VERSION:-v2-alpha-tpuv5-lite} spot=${SPOT:-} nfs=${NFS:-}
if [[ -n $spot && -z $nfs ]]; then
  echo "SPOT=1 needs NFS=HOST:/SHARE: the disk of a spot VM is gone when it is taken away." >&2
  exit 2
fi
on() { gcloud compute tpus tpu-vm ssh "$NAME" --zone="$ZONE" --worker="$1" --command="$2"; }
state() {
  gcloud compute tpus queued-resources describe "$NAME" --zone="$ZONE" --format='value(state.state)' 2>/dev/null
}

# Waits until the TPU is there; asks for it if nobody has, or if it was taken away.
acquire() {
  while :; do
    case $(state || true) in
    ACTIVE) return ;;
    '')
      gcloud compute tpus queued-resources create "$NAME" --node-id="$NAME" --zone="$ZONE" --accelerator-type="$TYPE" \
        --runtime-version="$version" ${spot:+--spot}
      ;;
    FAILED | SUSPENDING | SUSPENDED)
      gcloud compute tpus queued-resources delete "$NAME" --zone="$ZONE" --force --quiet || sleep 30
      ;;
    *) sleep 30 ;;
    esac
  done
}

install() {
  local mount=''
  git archive --format=tar.gz --prefix=jaxtl/ HEAD >/tmp/jaxtl.tar.gz
  gcloud compute tpus tpu-vm scp /tmp/jaxtl.tar.gz "$NAME": --zone="$ZONE" --worker=all
  [[ -n $nfs ]] && mount="&& mkdir -p runs && { mountpoint -q runs || { sudo apt-get install -qy nfs-common &&
    sudo mount -t nfs $nfs runs; }; }"
  on all "tar xzf jaxtl.tar.gz && cd jaxtl && python3 -m venv .venv && .venv/bin/pip install -q -e '.[tpu]' $mount"
}

# The flags go through one more shell on each VM.
arguments=$(printf '%q ' "$@")
while :; do
  acquire
  status=0
  command="cd jaxtl && PATH=.venv/bin:\$PATH launch/local.sh $arguments 2>&1 | tee -a train.log"
  install && on all "set -o pipefail; $command" || status=$?
  # Where the TPU is still there, launch/local.sh has tried all; the status of a lost connection says nothing.
  ((status)) && [[ -n $spot && $(state || true) != ACTIVE ]] || break
  echo "the TPU was taken away; asks for it again" >&2
done
[[ -n $nfs ]] || gcloud compute tpus tpu-vm scp --recurse "$NAME":jaxtl/runs . --zone="$ZONE" --worker=0
exit "$status"
