"""Real processes that start in a moment: forked from one that has imported jaxtl, and has not touched a device yet."""

import multiprocessing
import os
import sys

_CONTEXT = multiprocessing.get_context("forkserver")
_CONTEXT.set_forkserver_preload(["jaxtl.main", "jaxtl.commands.train", "jaxtl.checkpoints.manager", "tensorboardX"])


def start(arguments, output, *, devices=0, stop_after=0, pause=9):
    """Starts `python -m jaxtl.main ARGUMENTS` with both its outputs in a file; `kill()` is SIGKILL.

    Args:
      arguments: the command and its flags.
      output: the file.
      devices: so many CPU devices.
      stop_after: the step after which the run is told to stop, as by SIGTERM.
      pause: between two checkpoints, in times that the first took; 0 has each written.
    """
    arguments = [str(argument) for argument in arguments]
    process = _CONTEXT.Process(target=_main, args=(arguments, str(output), devices, stop_after, pause))
    process.start()
    return process


def _main(arguments, output, devices, stop_after, pause):
    if devices:  # XLA reads it when the first device is asked for; of flags given twice the last counts.
        os.environ["XLA_FLAGS"] += f" --xla_force_host_platform_device_count={devices}"
    from jaxtl.checkpoints import writer
    from jaxtl.main import main
    from jaxtl.train.preemption import Preemption

    writer._PAUSE = pause
    if stop_after:
        calls = iter(range(1, 1000))
        Preemption.requested = lambda self: next(calls) == stop_after
    with open(output, "a", encoding="utf-8", buffering=1) as file:
        sys.stdout = sys.stderr = file
        sys.exit(main(arguments))
