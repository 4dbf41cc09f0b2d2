"""Flags -> command: `python -m jaxtl.main [COMMAND] --config=FILE[:variant] --workdir=DIR [--config.KEY=VALUE ...]`."""

import argparse
import importlib
import os
import sys
from collections.abc import Sequence

from jaxtl import command_line
from jaxtl.errors import Stopped, UserError
from jaxtl.interrupts import STATUS, Interrupts

COMMANDS = {
    "train": "fine-tune, and evaluate the best checkpoint once on test (the default)",
    "eval": "measure weights or a run on a data set",
    "compare": "put runs beside each other: paired differences with intervals, learning curves, configs; a page",
    "ensemble": "put the predictions of runs together, by vote, weights, logits or stacking; or those of many views",
    "average": "average the weights of runs of one network, as soups, WiSE-FT or checkpoints, into a run",
    "compress": "make a run smaller or faster, by zeros, fewer units or few bits, and fine-tune it; into a run",
    "predict": "classify image files with a run",
    "serve": "answer requests to classify images over HTTP, with a page to try it",
    "report": "write the page of a run: metrics, curves, confusion, mistakes, and what it was made with",
    "operating_points": "choose thresholds for a wanted precision, recall, accuracy or coverage, or for costs",
    "explain": "show which pixels the predictions of a run rest on: maps over image files, as PNG and a page",
    "audit": "look for duplicates, leaks, broken and poor images, wrong labels; a page, and a table to edit",
    "describe": "show groups, shapes, what trains and each group's rate, without data",
    "show": "draw what a config trains and evaluates on: contact sheets of views, as PNG",
    "bench": "time the steps of a config, on noise or on its data: images/s, memory, FLOPs, waiting for data",
    "probe": "measure how far frozen features carry, by k-NN and a linear classifier, at every depth if asked",
    "crossval": "train and test once for each fold: means with intervals, per class, and out-of-fold predictions",
    "lr_find": "sweep the learning rate over the first batches and recommend one",
    "export": "write the best checkpoint of a run as one weight file",
    "prepare": "download and prepare a TFDS data set",
    "configs": "list the recipes that --config takes by name, or copy one to change it",
    "config": "list the keys of a config: default, value and meaning",
}


def main(argv: Sequence[str] | None = None, *, synchronous: bool = False, interrupts: Interrupts | None = None) -> int:
    """Runs one command; returns the exit status: 0, 1 (a problem, explained), 75 (stopped, to be started again) or 130.

    One of several processes ends here, with 1, or with 76 where the others are gone. With `synchronous`, a CPU
    computes one step after the other, not some ahead. `interrupts` is told which run is under way.
    """
    interrupts = interrupts or Interrupts()
    try:
        return _run(sys.argv[1:] if argv is None else argv, synchronous, interrupts)
    except UserError as error:
        print(f"error: {error}{_keys_of(error)}", file=sys.stderr)
        _end_all(error)
        return 1
    except Stopped as stopped:
        print(f"{stopped}; started again, the run goes on", file=sys.stderr)
        return os.EX_TEMPFAIL
    except KeyboardInterrupt:
        interrupts.say()
        return STATUS
    except BrokenPipeError:
        # Whoever read the lines, `head` for one, has seen enough; Python would complain again as it closes the output.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        _end_all(UserError("nobody reads its output any more"))
        return 1
    except Exception as error:
        if interrupts.came:  # Some libraries make errors of their own of it, while they are imported for one.
            interrupts.say()
            return STATUS
        _end_all(error)
        raise


def _run(argv: Sequence[str], synchronous: bool, interrupts: Interrupts) -> int:
    if argv[:1] in (["-h"], ["--help"], ["--version"]):
        _parser().parse_args(argv)
    import logging

    name, rest = command_line.split_command(argv, COMMANDS)
    module = importlib.import_module(f"jaxtl.commands.{name}")
    options = command_line.Parser(prog=f"jaxtl {name}", description=COMMANDS[name])
    module.add_arguments(options)
    overrides, rest = command_line.split_overrides(rest, options)
    if (key := command_line.asked_key(overrides)) is not None:
        module = importlib.import_module("jaxtl.commands.config")
        arguments = argparse.Namespace(config=command_line.config_of(rest), key=key)
    else:
        arguments = options.parse_args(rest)
    # Orbax, TFDS and absl report what is normal for them, and each thread that met a full disk; what jaxtl has to say
    # is printed.
    for logger in ("absl", "asyncio"):
        logging.getLogger(logger).setLevel(logging.CRITICAL)
    if synchronous:
        from jaxtl.parallel.cpu_runtime import dispatch_synchronously

        dispatch_synchronously()
    interrupts.began, interrupts.run = True, getattr(arguments, "workdir", None) if name == "train" else None
    return module.main(arguments, overrides) or 0


def _parser() -> argparse.ArgumentParser:
    """Returns a parser that knows what each command is for, and the version."""
    parser = argparse.ArgumentParser(
        prog="jaxtl",
        description="Transfer learning for images, in JAX.",
        epilog="jaxtl COMMAND --help lists the flags of a command, jaxtl configs the recipes, jaxtl config all keys.",
    )
    parser.add_argument("--version", action="version", version=command_line.versions())
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name, text in COMMANDS.items():
        commands.add_parser(name, help=text, add_help=False)
    return parser


def _keys_of(error: UserError) -> str:
    """Returns the flags that set the arguments which an error names, on a line of their own."""
    if not error.arguments:
        return ""
    from jaxtl.config import ARGUMENTS  # It takes a second to import, which --help need not wait for.

    flags = [f"--config.{ARGUMENTS[name]}" for name in error.arguments if name in ARGUMENTS]
    return f"\n(set with {', '.join(flags)})" if flags else ""


def _end_all(error: Exception) -> None:
    """Ends the other processes of this run, too, if there are any."""
    if "jax" not in sys.modules:
        return
    from jaxtl.parallel import processes

    if processes.is_multiprocess():
        processes.end(error)


def start() -> int:
    """Runs the command of this process: `jaxtl`, or `python -m jaxtl.main`.

    What concerns the whole process is done here alone: whoever calls main() in a process of his own may want it
    otherwise.
    """
    interrupts = Interrupts()
    try:
        interrupts.watch()
        from jaxtl.parallel import gpu_flags
        from jaxtl.parallel.cpu_runtime import has_accelerator, keep_freed_memory

        keep_freed_memory()
        gpu_flags.set_flags()
        gpu_flags.keep_compiled()
        status = main(synchronous=not has_accelerator(), interrupts=interrupts)
    except KeyboardInterrupt:
        status = STATUS
    if status == STATUS:
        interrupts.leave()
    return status


if __name__ == "__main__":
    sys.exit(start())
