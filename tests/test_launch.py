"""The launch scripts, with stand-ins for python and for the programs of clusters, which do as they are told."""

import json
import os
import signal
import subprocess
import time
from pathlib import Path

import pytest
import yaml
from scripts import LAUNCH, container_of, finish, start

from jaxtl import command_line, config
from jaxtl.commands import serve


@pytest.fixture
def programs(programs, tmp_path):
    """Writes stand-ins that run in one folder, whoever calls them; returns that folder."""

    def write(**scripts):
        programs(**{name: f"cd {tmp_path}\n{text}" for name, text in scripts.items()})
        return tmp_path

    return write


# Exits with the first of the statuses that are left.
PYTHON = """
echo "$@" >> calls
status=$(head -n 1 statuses)
sed -i 1d statuses
exit "$status"
"""


@pytest.fixture
def launch(programs):
    def run(statuses, retries=5):
        """Runs local.sh with a python that exits with the given statuses, one after the other."""
        folder = programs(python=PYTHON, sleep="echo $1 >> waits")
        (folder / "statuses").write_text("".join(f"{status}\n" for status in statuses))
        status, _ = finish(start(LAUNCH / "local.sh", "--config=a b", "--workdir=w", RETRIES=retries))
        waits = folder / "waits"
        calls = (folder / "calls").read_text().splitlines()
        assert set(calls) == {"-m jaxtl.main --config=a b --workdir=w"}
        return status, len(calls), waits.read_text().split() if waits.exists() else []

    return run


def test_a_run_that_dies_is_started_again_with_growing_waits(launch):
    assert launch([137, 134, 0]) == (0, 3, ["1", "2"])


@pytest.mark.parametrize("status", [0, 1, 2])
def test_what_a_person_must_mend_is_not_tried_again(launch, status):
    assert launch([status, 0]) == (status, 1, [])


def test_it_gives_up_after_the_given_number_of_tries(launch):
    assert launch([139] * 9, retries=2) == (139, 3, ["1", "2"])


def test_saved_runs_start_again_at_once_and_are_not_counted(launch):
    assert launch([75, 75, 139, 75, 0], retries=1) == (0, 5, ["1"])


def wait_for(path, lines=1):
    for _ in range(200):
        if path.exists() and len(path.read_text().splitlines()) >= lines:
            return path.read_text().split()
        time.sleep(0.05)
    raise AssertionError(f"{path.name} did not come")


def test_several_processes_are_told_who_they_are(programs):
    folder = programs(python='echo "$JAX_COORDINATOR_ADDRESS $JAX_NUM_PROCESSES $JAX_PROCESS_ID $*" >> calls')
    assert finish(start(LAUNCH / "local.sh", "--workdir=a b", PROCESSES=3))[0] == 0
    calls = sorted(line.split(maxsplit=3) for line in (folder / "calls").read_text().splitlines())
    assert [call[1:] for call in calls] == [["3", str(rank), "-m jaxtl.main --workdir=a b"] for rank in range(3)]
    (address,) = {call[0] for call in calls}
    assert address.startswith("localhost:")
    assert int(address.partition(":")[2]) > 1023


# Process 1 waits for process 0 for ever, and cannot hear SIGTERM, as one that is stuck in a collective.
STUCK = """
echo $$ >> pids
if [[ $(wc -l < pids) -gt 2 ]]; then exit 0; fi
if [[ $JAX_PROCESS_ID == 0 ]]; then touch ready; exec sleep 1000; fi
trap "echo heard >> heard" TERM
while :; do read -rt 0.1 < /dev/zero; sleep 0.1; done
"""


def test_when_one_process_is_killed_the_rest_is_ended_in_time_and_all_start_again(programs):
    folder = programs(python=STUCK)
    process = start(LAUNCH / "local.sh", PROCESSES=2, GRACE=1)
    first = wait_for(folder / "pids", 2)
    wait_for_ready = time.monotonic()
    while not (folder / "ready").exists() and time.monotonic() - wait_for_ready < 10:
        time.sleep(0.05)
    sleeper = subprocess.run(["pgrep", "-g", str(process.pid), "-x", "sleep"], capture_output=True, text=True).stdout
    os.kill(next(int(pid) for pid in first if pid in sleeper.split()), signal.SIGKILL)
    status, output = finish(process)
    assert status == 0, output
    assert "exit status 137; starts again in 1 s" in output
    assert (folder / "heard").exists()
    assert len((folder / "pids").read_text().split()) == 4
    assert not any(Path(f"/proc/{pid}").exists() for pid in first)


def test_a_signal_to_the_script_lets_the_processes_save_and_ends_it(programs):
    folder = programs(python='trap "exit 75" TERM; echo $$ >> pids; while :; do sleep 0.1; done')
    process = start(LAUNCH / "local.sh", PROCESSES=2, GRACE=20)
    wait_for(folder / "pids", 2)
    time.sleep(0.2)
    os.kill(process.pid, signal.SIGTERM)
    assert finish(process, timeout=15)[0] == 75
    assert len((folder / "pids").read_text().split()) == 2


# As srun does: one process a task, told its number; the job's status is that of a task that failed.
SRUN = """
shift; pids=()
for SLURM_PROCID in 0 1; do export SLURM_PROCID; "$@" & pids+=($!); done
for pid in "${pids[@]}"; do wait "$pid" || status=$?; done
exit ${status:-0}
"""


@pytest.mark.parametrize(
    ("statuses", "end", "waits", "requeued"),
    [
        ([0], 0, [], []),
        ([1], 1, [], []),
        ([137, 134, 0], 0, ["10", "20"], []),
        ([75], 75, [], ["requeue 7"]),
        ([9, 9, 9, 9], 9, ["10", "20"], []),
    ],
)
def test_slurm_restarts_requeues_and_gives_up(programs, statuses, end, waits, requeued):
    folder = programs(
        srun=SRUN,
        scontrol="echo $* >> requeued",
        sleep="echo $1 >> waits",
        python='echo "$SLURM_PROCID/$SLURM_NTASKS $*" >> calls\n'
        "number=$(( ($(wc -l < calls) + 1) / 2 ))\n"
        "while (( $(wc -l < calls) < 2 * number )); do read -rt 0.02 <> <(:); done\n"
        'exit "$(sed -n ${number}p statuses)"',
    )
    (folder / "statuses").write_text("".join(f"{status}\n" for status in statuses))
    variables = {"SLURM_JOB_ID": 7, "SLURM_NTASKS": 2, "SLURM_SUBMIT_DIR": folder, "VENV": folder, "RETRIES": 2}
    status, output = finish(start(LAUNCH / "slurm.sh", "--workdir=a b", **variables))
    assert status == end, output
    calls = (folder / "calls").read_text().splitlines()
    assert set(calls) == {f"{rank}/2 -m jaxtl.main --workdir=a b" for rank in (0, 1)}
    for name, expected in (("waits", waits), ("requeued", requeued)):
        path = folder / name
        assert (path.read_text().splitlines() if path.exists() else []) == expected


# Answers from the list of states; the run loses its connection as often as there are lines in "lost".
GCLOUD = """
echo "$*" >> calls
case "$*" in
*queued-resources\\ describe*) head -n 1 states; sed -i 1d states ;;
*launch/local.sh*) if [[ -s lost ]]; then sed -i 1d lost; exit 255; fi ;;
esac
"""


def tpu(programs, states, lost=0, **environment):
    folder = programs(gcloud=GCLOUD, sleep="")
    (folder / "states").write_text("".join(f"{state}\n" for state in states))
    (folder / "lost").write_text("x\n" * lost)
    process = start(LAUNCH / "tpu_vm.sh", "--workdir=runs/a b", NAME="n", ZONE="z", TYPE="v5litepod-16", **environment)
    status, output = finish(process)
    calls = (folder / "calls").read_text().splitlines() if (folder / "calls").exists() else []
    return status, output, [call.removeprefix("compute tpus ") for call in calls]


def test_a_tpu_is_asked_for_used_on_all_workers_and_its_run_brought_back(programs):
    status, output, calls = tpu(programs, ["", "PROVISIONING", "ACTIVE"])
    assert status == 0, output
    create = "queued-resources create n --node-id=n --zone=z --accelerator-type=v5litepod-16"
    assert create + " --runtime-version=v2-alpha-tpuv5-lite" in calls
    (run,) = (call for call in calls if "launch/local.sh" in call)
    assert run.startswith("tpu-vm ssh n --zone=z --worker=all --command=")
    assert "--workdir=runs/a\\ b" in run
    assert calls[-1] == "tpu-vm scp --recurse n:jaxtl/runs . --zone=z --worker=0"


def test_a_spot_tpu_that_was_taken_away_is_asked_for_again(programs):
    states = ["ACTIVE", "SUSPENDED", "SUSPENDED", "", "ACTIVE"]
    status, output, calls = tpu(programs, states, lost=1, SPOT=1, NFS="10.0.0.2:/share")
    assert status == 0, output
    assert "asks for it again" in output
    done = [call.split(" n ")[0] for call in calls if "queued-resources" in call and "describe" not in call]
    assert done == ["queued-resources delete", "queued-resources create"]
    assert sum(call.endswith("--spot") for call in calls) == 1
    assert sum("launch/local.sh" in call for call in calls) == 2
    assert any("mount -t nfs 10.0.0.2:/share runs" in call for call in calls)


def test_a_connection_lost_to_a_tpu_that_is_still_there_is_told(programs):
    status, _, calls = tpu(programs, ["ACTIVE", "ACTIVE"], lost=1, SPOT=1, NFS="h:/s")
    assert (status, sum("launch/local.sh" in call for call in calls)) == (255, 1)


def test_a_spot_tpu_without_a_disk_that_stays_is_refused(programs):
    assert tpu(programs, [], SPOT=1)[::2] == (2, [])


def test_the_image_that_serves_runs_as_no_root_and_by_flags_that_there_are():
    lines = (LAUNCH / "serve.Dockerfile").read_text().splitlines()
    (entry,) = (json.loads(line.removeprefix("ENTRYPOINT ")) for line in lines if line.startswith("ENTRYPOINT "))
    assert entry[:2] == ["jaxtl", "serve"]
    parser = command_line.Parser()
    serve.add_arguments(parser)
    arguments = parser.parse_args(entry[2:])
    assert (arguments.host, f"EXPOSE {arguments.port}" in lines) == ("0.0.0.0", True)
    (user,) = (line.split()[1] for line in lines if line.startswith("USER "))
    assert int(user) > 0
    copied = [name for line in lines if line.startswith("COPY ") for name in line.split()[1:-1]]
    assert [name for name in copied if not (LAUNCH.parent / name).exists()] == []


def test_shellcheck_finds_nothing():
    subprocess.run(["shellcheck", *sorted(LAUNCH.glob("*.sh"))], check=True)


JOBSETS = sorted(LAUNCH.glob("*.yaml"))


@pytest.mark.parametrize("path", JOBSETS, ids=lambda path: path.stem)
def test_the_job_of_a_jobset_fits_the_schema_of_kubernetes(path):
    schemas = pytest.importorskip("kubernetes_validate")
    jobset = yaml.safe_load(path.read_text())
    (group,) = jobset["spec"]["replicatedJobs"]
    job = {"apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": "j"}, **group["template"]}
    schemas.validate(job, "1.34", strict=True)
    job["spec"]["template"]["spec"]["terminationGrace"] = 1
    with pytest.raises(schemas.ValidationError):
        schemas.validate(job, "1.34", strict=True)


@pytest.mark.parametrize("path", JOBSETS, ids=lambda path: path.stem)
def test_a_jobset_is_one_that_restarts_as_a_whole(path):
    jobset = yaml.safe_load(path.read_text())
    assert (jobset["apiVersion"], jobset["kind"]) == ("jobset.x-k8s.io/v1alpha2", "JobSet")
    assert set(jobset["spec"]) <= {"failurePolicy", "replicatedJobs", "network"}
    policy = jobset["spec"]["failurePolicy"]
    assert policy["rules"][0] | {"name": ""} == {
        "name": "",
        "action": "FailJobSet",
        "onJobFailureReasons": ["PodFailurePolicy"],
    }
    (group,) = jobset["spec"]["replicatedJobs"]
    assert set(group) == {"name", "replicas", "template"}
    job = group["template"]["spec"]
    assert job["parallelism"] == job["completions"]
    assert (job["completionMode"], job["backoffLimit"]) == ("Indexed", 0)
    (container,) = job["template"]["spec"]["containers"]
    (rule,) = job["podFailurePolicy"]["rules"]
    assert rule["onExitCodes"] == {"containerName": container["name"], "operator": "In", "values": [1, 2]}
    mounted = {mount["name"] for mount in container["volumeMounts"]}
    assert mounted == {volume["name"] for volume in job["template"]["spec"]["volumes"]}
    variables = {entry["name"]: entry["value"] for entry in container.get("env", [])}
    if variables:
        host = f"{jobset['metadata']['name']}-{group['name']}-0-0.{jobset['metadata']['name']}"
        port = container["ports"][0]["containerPort"]
        assert variables == {
            "JAX_COORDINATOR_ADDRESS": f"{host}:{port}",
            "JAX_NUM_PROCESSES": str(job["completions"]),
        }


@pytest.mark.parametrize("path", JOBSETS, ids=lambda path: path.stem)
def test_the_flags_in_a_jobset_are_flags_of_jaxtl(path, monkeypatch):
    monkeypatch.chdir(LAUNCH.parent)
    container = container_of(path.name)
    words = [*container["command"], *container.get("args", [])]
    flags = dict(word.split("=", 1) for word in words if word.startswith("--"))
    assert flags.pop("--workdir").startswith(container["volumeMounts"][0]["mountPath"])
    assert int(flags.pop("--connect-timeout")) > 600
    file = flags.pop("--config")
    config.load(file, {key.removeprefix("--config."): value for key, value in flags.items()})


def test_the_command_of_the_gpu_jobset_runs_one_process_with_its_number(programs):
    container = container_of("kubernetes_gpu.yaml")
    programs(python='echo "$JAX_PROCESS_ID $*"')
    environment = {**os.environ, "JOB_COMPLETION_INDEX": "1"}
    done = subprocess.run([*container["command"], *container["args"]], env=environment, capture_output=True, text=True)
    assert done.stdout.startswith("1 -m jaxtl.main --config=configs/vit_flowers.py --workdir=")
