#!/usr/bin/env bash
# One TPU VM (all its chips): makes it, installs jaxtl from this checkout, trains, and copies the run back.
#
#   NAME=flowers ZONE=us-central1-a TYPE=v5litepod-8 launch/tpu_vm.sh \
#     --config=configs/vit_flowers.py --workdir=runs/flowers
#
# Needs gcloud with a project that may use TPUs. The VM stays: `gcloud compute tpus tpu-vm delete NAME --zone=ZONE` ends it.
# Logs: `gcloud compute tpus tpu-vm ssh NAME --zone=ZONE --command='tail -f jaxtl/train.log'`.
# TensorBoard: the same with `-- -L 6006:localhost:6006`, and there `tensorboard --logdir jaxtl/runs`.
set -euo pipefail
: "${NAME:?give NAME, the name of the VM}" "${ZONE:?give ZONE}" "${TYPE:?give TYPE, the accelerator type}"
version=${VERSION:-v2-alpha-tpuv5-lite}
on() { gcloud compute tpus tpu-vm ssh "$NAME" --zone="$ZONE" --command="$1"; }

gcloud compute tpus tpu-vm describe "$NAME" --zone="$ZONE" >/dev/null 2>&1 ||
  gcloud compute tpus tpu-vm create "$NAME" --zone="$ZONE" --accelerator-type="$TYPE" --version="$version"
git archive --format=tar.gz --prefix=jaxtl/ HEAD >/tmp/jaxtl.tar.gz
gcloud compute tpus tpu-vm scp /tmp/jaxtl.tar.gz "$NAME": --zone="$ZONE"
on "tar xzf jaxtl.tar.gz && cd jaxtl && python3 -m venv .venv && .venv/bin/pip install -q -e '.[tpu]'"
# The flags go through one more shell on the VM.
arguments=$(printf '%q ' "$@")
on "set -o pipefail; cd jaxtl && PATH=.venv/bin:\$PATH launch/local.sh $arguments 2>&1 | tee -a train.log"
gcloud compute tpus tpu-vm scp --recurse "$NAME":jaxtl/runs . --zone="$ZONE"
