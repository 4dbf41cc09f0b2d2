"""Flags -> command: `python -m jaxtl.main [COMMAND] --config=FILE[:variant] --workdir=DIR [--config.KEY=VALUE ...]`."""

import argparse
import importlib
import logging
import os
import sys

from jaxtl.errors import Stopped, UserError
from jaxtl.parallel import gpu_flags
from jaxtl.parallel.cpu_runtime import dispatch_synchronously, has_accelerator, keep_freed_memory

COMMANDS = {
    "train": "fine-tune, and evaluate the best checkpoint once on test (the default)",
    "eval": "measure weights or a run on a data set",
    "predict": "classify image files with a run",
    "describe": "show groups, shapes, what trains and each group's rate, without data",
    "bench": "time the steps of a config, on noise or on its data: images/s, memory, FLOPs, waiting for data",
    "probe": "measure how far frozen features carry, by k-NN and a linear classifier, at every depth if asked",
    "lr_find": "sweep the learning rate over the first batches and suggest one",
    "export": "write the best checkpoint of a run as one weight file",
    "prepare": "download and prepare a TFDS data set",
}


def main(argv: list[str] | None = None, *, synchronous: bool = False) -> int:
    """Runs one command; returns the exit status: 0, 1 (a problem, explained) or 75 (stopped, to be started again).

    One of several processes ends here, with 1, or with 76 where the others are gone. With `synchronous`, a CPU
    computes one step after the other, not some ahead.
    """
    argv = list(sys.argv[1:] if argv is None else argv)
    if not argv or (argv[0].startswith("-") and argv[0] not in ("-h", "--help")):
        argv.insert(0, "train")
    parser = argparse.ArgumentParser(prog="python -m jaxtl.main", description="Transfer learning for images, in JAX.")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name, text in COMMANDS.items():
        commands.add_parser(name, help=text, description=text, add_help=False, allow_abbrev=False)
    command = parser.parse_known_args(argv[:1])[0].command
    module = importlib.import_module(f"jaxtl.commands.{command}")
    options = argparse.ArgumentParser(prog=f"python -m jaxtl.main {command}", description=COMMANDS[command])
    module.add_arguments(options)
    overrides, rest = _split_overrides(argv[1:], options)
    arguments = options.parse_args(rest)
    # Orbax, TFDS and absl report what is normal for them, and each thread that met a full disk; what jaxtl has to say
    # is printed.
    for name in ("absl", "asyncio"):
        logging.getLogger(name).setLevel(logging.CRITICAL)
    if synchronous:
        dispatch_synchronously()
    try:
        return module.main(arguments, overrides) or 0
    except UserError as error:
        print(f"error: {error}{_keys_of(error)}", file=sys.stderr)
        _end_all(error)
        return 1
    except Stopped as stopped:
        print(f"{stopped}; started again, the run goes on", file=sys.stderr)
        return os.EX_TEMPFAIL
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:
        # Whoever read the lines, `head` for one, has seen enough; Python would complain again as it closes the output.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        _end_all(UserError("nobody reads its output any more"))
        return 1
    except Exception as error:
        _end_all(error)
        raise


def _keys_of(error: UserError) -> str:
    """Returns the flags that set the arguments which an error names, on a line of their own."""
    from jaxtl.config import ARGUMENTS  # It takes a second to import, which --help need not wait for.

    flags = [f"--config.{ARGUMENTS[name]}" for name in error.arguments if name in ARGUMENTS]
    return f"\n(set with {', '.join(flags)})" if flags else ""


def _end_all(error: Exception) -> None:
    """Ends the other processes of this run, too, if there are any."""
    from jaxtl.parallel import processes

    if processes.is_multiprocess():
        processes.end(error)


def _split_overrides(argv: list[str], parser: argparse.ArgumentParser) -> tuple[dict[str, str], list[str]]:
    """Takes --config.KEY=VALUE and --config.KEY VALUE out of the arguments."""
    overrides: dict[str, str] = {}
    rest: list[str] = []
    items = iter(argv)
    for item in items:
        if not item.startswith("--config."):
            rest.append(item)
            continue
        key, equals, text = item.removeprefix("--config.").partition("=")
        value = text if equals else next(items, None)
        if value is None:
            parser.error(f"{item} needs a value: --config.{key}=VALUE")
        overrides[key] = value
    return overrides, rest


if __name__ == "__main__":
    # Here alone: whoever calls main() in a process of his own may want it otherwise.
    keep_freed_memory()
    gpu_flags.set_flags()
    gpu_flags.keep_compiled()
    sys.exit(main(synchronous=not has_accelerator()))
