"""The launch scripts and manifests, for real: each starts two processes here that train one model.

What stands in for a cluster only sets the variables that it would set, and starts the very command it would start.
"""

import http.server
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest
import scripts
from joined import finish, free_port, same, wait_for_line
from scripts import LAUNCH, container_of, start

PYTHON = Path(sys.executable).parent


@pytest.fixture
def flags(config_file, pictures):
    """With the batches that are made ahead it is less than an epoch, so that no image is needed twice."""
    return (
        f"--config={config_file}",
        f"--config.data.source=folder:{pictures}",
        "--config.optimizer.name=sgd",
        "--config.log.to=",  # The worst mistakes are shown by the first process, whoever else read them.
        "--config.train.batch_size=8",
        "--config.train.steps=3",
    )


@pytest.fixture
def alone(jaxtl, flags, tmp_path):
    """Trains in this process; returns a check that another run gave the same."""

    def check(workdir):
        status, _, err = jaxtl("train", *flags, f"--workdir={tmp_path / 'alone'}")
        assert status == 0, err
        same(workdir, tmp_path / "alone")

    return check


# Notes which images a process opens.
WATCH = """
import os, sys
def note(event, arguments, file=open(os.path.join(os.environ["OPENED"], str(os.getpid())), "a")):
    if event == "open" and str(arguments[0]).endswith(".png"):
        print(arguments[0], file=file, flush=True)
sys.addaudithook(note)
"""


@pytest.mark.slow
def test_slurm_starts_a_run_whose_processes_find_each_other_and_read_their_share_only(
    programs, flags, alone, pictures, tmp_path, monkeypatch
):
    # As srun does: one process a task, told its number, and nothing of an address.
    programs(
        srun="shift\nfor rank in 0 1; do\n"
        'SLURM_PROCID=$rank SLURM_LOCALID=$rank SLURM_STEP_NODELIST=127.0.0.1 SLURM_STEP_NUM_NODES=1 "$@" &\n'
        'pids+=($!)\ndone\nfor pid in "${pids[@]}"; do wait "$pid" || status=$?; done\nexit ${status:-0}'
    )
    # jax takes its port from the number of the job.
    job = free_port(61440) - 61440
    (tmp_path / "opened").mkdir()
    (tmp_path / "watch").mkdir()
    (tmp_path / "watch" / "sitecustomize.py").write_text(WATCH)
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path / 'watch'}:{LAUNCH.parent}")
    variables = {"SLURM_JOB_ID": job, "SLURM_NTASKS": 2, "SLURM_SUBMIT_DIR": LAUNCH.parent, "VENV": PYTHON.parent}
    command = (LAUNCH / "slurm.sh", *flags, f"--workdir={tmp_path / 'run'}")
    status, output = scripts.finish(start(*command, OPENED=tmp_path / "opened", **variables), timeout=300)
    assert status == 0, output
    assert "error" not in output
    one, two = sorted(
        ({*path.read_text().splitlines()} for path in (tmp_path / "opened").iterdir() if path.stat().st_size), key=len
    )
    assert not one & two
    assert one | two == {str(path) for path in pictures.rglob("*.png")}
    # Of each batch of 8, a process has 4 rows: of 54 images of train, 6 of val and 18 of test.
    assert (len(one), len(two)) == (26 + 2 + 8, 28 + 4 + 10)
    alone(tmp_path / "run")


def rank_of(pid):
    for entry in Path(f"/proc/{pid}/environ").read_text().split("\0"):
        if entry.startswith("JAX_PROCESS_ID="):
            return int(entry.partition("=")[2])
    return None


@pytest.mark.slow
def test_killed_under_local_sh_all_start_again_and_end_as_if_nothing_had_happened(programs, flags, jaxtl, tmp_path):
    long = (
        *flags[:-1],
        "--config.train.steps=120",
        "--config.train.eval_every=40",
        "--config.optimizer.learning_rate=1e-3",
    )
    workdir = tmp_path / "run"
    process = start(LAUNCH / "local.sh", *long, f"--workdir={workdir}", PROCESSES=2, GRACE=3)
    # Past the checkpoint of step 40, kill the process that the others found each other by.
    wait_for_line(workdir, [process], lines=18)
    children = subprocess.run(["pgrep", "-P", str(process.pid)], capture_output=True, text=True).stdout.split()
    (first,) = (pid for pid in children if rank_of(pid) == 0)
    os.kill(int(first), signal.SIGKILL)
    (status,), (output,), _ = finish([process])
    assert status == 0, output
    assert "exit status 137; starts again in 1 s" in output
    assert "continues at step " in output
    assert jaxtl("train", *long, f"--workdir={tmp_path / 'alone'}")[0] == 0
    same(workdir, tmp_path / "alone")


def with_own(words, flags, workdir):
    """Puts the flags of a test in the place of those of an example."""
    kept = [word for word in words if not word.startswith("--")]
    assert len(kept) < len(words)
    return [*kept, *flags, f"--workdir={workdir}"]


@pytest.mark.slow
def test_the_container_of_the_gpu_jobset_trains_with_what_kubernetes_tells_it(programs, flags, alone, tmp_path):
    container = container_of("kubernetes_gpu.yaml")
    variables = {entry["name"]: entry["value"] for entry in container["env"]}
    assert variables.pop("JAX_NUM_PROCESSES") == "2"
    address = f"127.0.0.1:{free_port()}"  # In place of the name of the first pod.
    command = [*container["command"], *with_own(container["args"], flags, tmp_path / "run")]
    pods = {"JAX_COORDINATOR_ADDRESS": address, "JAX_NUM_PROCESSES": 2, "KUBERNETES_SERVICE_HOST": "10.0.0.1"}
    started = [start(*command, JOB_COMPLETION_INDEX=number, **pods) for number in range(2)]
    statuses, printed, _ = finish(started)
    assert statuses == [0, 0], printed
    assert not any("jax[k8s]" in text for text in printed)
    alone(tmp_path / "run")


# A machine without a TPU takes itself for one, as far as finding the others goes.
PRETEND = """
import os, sys
sys.path.insert(0, os.getcwd())
import jax._src.clusters.cloud_tpu_cluster
import jaxtl.parallel.processes
os.environ.pop("TPU_SKIP_MDS_QUERY", None)
jax._src.clusters.cloud_tpu_cluster.running_in_cloud_tpu_vm = True
if "TPU_WORKER_ID" in os.environ:
    os.environ["TPU_SKIP_MDS_QUERY"] = "true"  # As GKE does.
jaxtl.parallel.processes._on_tpu = lambda: True
"""


@pytest.mark.slow
def test_the_container_of_the_tpu_jobset_trains_with_what_gke_tells_it(programs, flags, alone, tmp_path, monkeypatch):
    container = container_of("gke_tpu.yaml")
    (tmp_path / "sitecustomize.py").write_text(PRETEND)
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}:{LAUNCH.parent}")
    command = with_own(container["command"], flags, tmp_path / "run")
    pods = {"TPU_WORKER_HOSTNAMES": "127.0.0.1,127.0.0.1", "JAX_COORDINATOR_PORT": free_port()}
    slice_ = {"MEGASCALE_COORDINATOR_ADDRESS": "127.0.0.1", "MEGASCALE_NUM_SLICES": 1, "MEGASCALE_SLICE_ID": 0}
    started = [start(*command, TPU_WORKER_ID=number, **pods, **slice_) for number in range(2)]
    statuses, printed, _ = finish(started)
    assert statuses == [0, 0], printed
    alone(tmp_path / "run")


@pytest.fixture
def metadata():
    """Serves what the metadata server of a TPU VM says, one for each of two workers; returns their addresses."""
    servers = []

    def serve(number):
        attributes = {
            "agent-worker-number": str(number),
            "worker-network-endpoints": "127.0.0.1,127.0.0.1",
            "tpu-env": "ACCELERATOR_TYPE: 'v5litepod-16'",
        }

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self):
                text = attributes.get(self.path.rpartition("/")[2], "")
                self.send_response(200 if text else 404)
                self.end_headers()
                self.wfile.write(text.encode())

            def log_message(self, *_):
                pass

        server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        servers.append(server)
        return f"127.0.0.1:{server.server_port}"

    yield [serve(0), serve(1)]
    for server in servers:
        server.shutdown()
        server.server_close()


# Two workers with a home each, where files are copied to and commands run; on them, pip and mount are stand-ins.
GCLOUD = """
case "$*" in
*queued-resources\\ describe*) echo ACTIVE ;;
*"tpu-vm scp"*) for worker in 0 1; do mkdir -p "$ROOT/worker$worker"; cp "$5" "$ROOT/worker$worker/"; done ;;
*"tpu-vm ssh"*)
  for worker in 0 1; do
    metadata=METADATA$worker
    (cd "$ROOT/worker$worker" && HOME=$PWD GCE_METADATA_IP=${!metadata} bash -c "${!#/#--command=/}") & pids+=($!)
  done
  for pid in "${pids[@]}"; do wait "$pid" || status=$?; done
  exit ${status:-0} ;;
esac
"""
VENV = """
[[ $* == "-m venv .venv" ]] || exit 9
mkdir -p .venv/bin
printf '#!/bin/sh\\nexec "$PYTHON" "$@"\\n' > .venv/bin/python
printf '#!/bin/sh\\necho "$@" >> pip\\n' > .venv/bin/pip
chmod +x .venv/bin/*
"""
SUDO = """
case "$*" in *"mount -t nfs"*) rmdir "${!#}" && ln -s "$ROOT/share" "${!#}" ;; esac
"""


@pytest.mark.slow
def test_the_commands_for_the_workers_of_a_tpu_slice_train_on_each(
    programs, flags, alone, metadata, tmp_path, monkeypatch
):
    if subprocess.run(["git", "-C", LAUNCH.parent, "rev-parse", "HEAD"], capture_output=True).returncode:
        pytest.skip("tpu_vm.sh copies a checkout")
    monkeypatch.chdir(LAUNCH.parent)
    (tmp_path / "share").mkdir()
    (tmp_path / "sitecustomize.py").write_text(PRETEND)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))  # jaxtl comes from the copy that each worker gets.
    programs(gcloud=GCLOUD, python3=VENV, sudo=SUDO, mountpoint="exit 1")
    variables = {"NAME": "n", "ZONE": "z", "TYPE": "v5litepod-16", "NFS": "h:/share", "ROOT": tmp_path}
    workers = {"METADATA0": metadata[0], "METADATA1": metadata[1], "PYTHON": sys.executable}
    command = (LAUNCH / "tpu_vm.sh", *flags, "--workdir=runs/a")
    started = start(*command, JAX_COORDINATOR_PORT=free_port(), **variables, **workers)
    status, output = scripts.finish(started, timeout=300)
    assert status == 0, output
    alone(tmp_path / "share" / "a")
    for worker in (0, 1):
        home = tmp_path / f"worker{worker}" / "jaxtl"
        assert (home / "pip").read_text() == "install -q -e .[tpu]\n"
        assert (home / "train.log").stat().st_size
