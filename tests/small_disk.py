"""A disk that is really full: a small file system in memory, mounted for one process and its children alone."""

import shutil
import subprocess
import sys

import pytest


def on_small_disk(disk, program, size="2m"):
    """Runs a program that alone sees a file system of so many bytes at `disk`."""
    mount = f"mount -t tmpfs -o size={size} none {disk}"
    start = ["unshare", "--map-root-user", "--mount", "sh", "-c"]
    if not shutil.which("unshare") or subprocess.run([*start, mount], capture_output=True).returncode:
        pytest.skip("nothing can be mounted here")
    command = [*start, f'{mount} && exec "$@"', "sh", sys.executable, "-c", program]
    done = subprocess.run(command, capture_output=True, text=True, timeout=1500)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
    return done.stdout
