"""What a command does not need is not imported: PyTorch and TensorFlow alone take seconds."""

import subprocess
import sys

import pytest

from jaxtl.main import COMMANDS

HEAVY = {"keras", "matplotlib", "tensorboardX", "tensorflow", "tensorflow_datasets", "torch", "transformers"}
CODE = """
import sys
from jaxtl.main import main
for arguments in sys.argv[1:]:
    try:
        main(arguments.split())
    except SystemExit as stop:
        assert stop.code == 0
print(*sys.modules, file=sys.stderr)
"""


@pytest.mark.parametrize(
    ("helps", "absent"),
    [(["--help"], HEAVY | {"jax"}), ([f"{command} --help" for command in COMMANDS], HEAVY)],
    ids=["jaxtl", "commands"],
)
def test_help_imports_nothing_heavy(helps, absent):
    done = subprocess.run([sys.executable, "-c", CODE, *helps], capture_output=True, text=True, check=True)
    assert done.stdout.count("usage:") == len(helps)
    assert not absent & set(done.stderr.split())
