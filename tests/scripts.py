"""The scripts and manifests of launch/, run here."""

import os
import signal
import subprocess
from pathlib import Path

import yaml

LAUNCH = Path(__file__).parents[1] / "launch"


def start(*command, **environment):
    """Starts a command in a process group of its own."""
    return subprocess.Popen(
        [str(word) for word in command],
        env={**os.environ, **{key: str(value) for key, value in environment.items()}},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )


def finish(process, timeout=60):
    """Waits for the end, or ends the whole group; returns (exit status, output)."""
    # What were left of it, the next test would be blamed for.
    with process:
        try:
            output, _ = process.communicate(timeout=timeout)
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
    return process.returncode, output


def container_of(name):
    """Returns the container of a JobSet."""
    (group,) = yaml.safe_load((LAUNCH / name).read_text())["spec"]["replicatedJobs"]
    (container,) = group["template"]["spec"]["template"]["spec"]["containers"]
    return container
