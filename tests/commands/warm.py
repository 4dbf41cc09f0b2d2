"""Real processes that start in a moment: forked from one that has imported jaxtl, and has not touched a device yet."""

import multiprocessing
import sys

_CONTEXT = multiprocessing.get_context("forkserver")
_CONTEXT.set_forkserver_preload(["jaxtl.main", "jaxtl.commands.train", "jaxtl.weights.checkpoint", "tensorboardX"])


def start(arguments, output):
    """Starts `python -m jaxtl.main ARGUMENTS` with both its outputs in a file; `kill()` is SIGKILL."""
    process = _CONTEXT.Process(target=_main, args=([str(argument) for argument in arguments], str(output)))
    process.start()
    return process


def _main(arguments, output):
    from jaxtl.main import main

    with open(output, "a", encoding="utf-8", buffering=1) as file:
        sys.stdout = sys.stderr = file
        sys.exit(main(arguments))
