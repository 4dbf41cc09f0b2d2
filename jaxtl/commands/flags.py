"""Flags that several commands share."""

import argparse
import contextlib
import os
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from jaxtl import config as config_lib
from jaxtl.errors import UserError
from jaxtl.experiment import workdir as files
from jaxtl.parallel import processes

# Keys that may differ between the hosts of a run.
_OF_ONE_HOST = ("data.workers", "data.reader", "data.data_dir")


def add_config(parser: argparse.ArgumentParser) -> None:
    """Adds --config; the flags --config.KEY=VALUE are taken out before."""
    text = (
        "a config file, or a recipe by its name: `jaxtl configs` lists them; without one, the config of "
        "--config.model.weights=run:DIR, else the defaults of all keys"
    )
    parser.add_argument("--config", default="", metavar="FILE[:variant]", help=text)
    parser.epilog = (
        "--config.KEY=VALUE replaces single values, as --config.train.epochs=3 does; --config.help lists all keys, and "
        "--config.KEY=? says what one means"
    )


def add_workdir(parser: argparse.ArgumentParser, text: str) -> None:
    """Adds --workdir."""
    parser.add_argument("--workdir", required=True, type=Path, metavar="DIR", help=text)


def add_processes(parser: argparse.ArgumentParser) -> None:
    """Adds the flags that join several processes; SLURM and TPU VMs need none of them."""
    variable = os.environ.get
    parser.add_argument(
        "--coordinator",
        default=variable("JAX_COORDINATOR_ADDRESS", ""),
        metavar="HOST:PORT",
        help="where process 0 can be reached, if several processes train together ($JAX_COORDINATOR_ADDRESS)",
    )
    parser.add_argument(
        "--processes",
        type=int,
        default=variable("JAX_NUM_PROCESSES", "0"),
        metavar="N",
        help="their number ($JAX_NUM_PROCESSES)",
    )
    parser.add_argument(
        "--process-id",
        type=int,
        default=variable("JAX_PROCESS_ID", "-1"),
        metavar="I",
        help="of this one, from 0 ($JAX_PROCESS_ID)",
    )
    parser.add_argument(
        "--connect-timeout", type=int, default=120, metavar="S", help="seconds to wait for the others (120)"
    )


@contextlib.contextmanager
def connected(arguments: argparse.Namespace) -> Iterator[None]:
    """Joins the processes; within, all but the first print nothing but errors."""
    processes.connect(
        arguments.coordinator, arguments.processes, arguments.process_id, timeout=arguments.connect_timeout
    )
    if processes.is_main():
        yield
        return
    with open(os.devnull, "w", encoding="utf-8") as nowhere, contextlib.redirect_stdout(nowhere):
        yield


def load_config(arguments: argparse.Namespace, overrides: Mapping[str, str]) -> ConfigDict:
    """Returns the config of --config, or of the run whose weights are taken, or the defaults, with the overrides."""
    location = overrides.get("model.weights", "")
    if arguments.config:
        config = config_lib.load(arguments.config, overrides)
    elif location.startswith("run:"):
        config = config_lib.override(files.run_config(Path(location.removeprefix("run:"))), overrides)
    else:
        _check_data(overrides)
        config = config_lib.override(config_lib.default(), overrides)
    alike = {key: value for key, value in config_lib.flat(config).items() if key not in _OF_ONE_HOST}
    processes.check_alike("the config", alike)
    return config


def _check_data(overrides: Mapping[str, str]) -> None:
    if "data.source" not in overrides:
        raise UserError(
            "there are no data: give a recipe or a config, --config=FILE, or images of your own, "
            "--config.data.source=folder:DIR, with --config.model.weights=pretrained to start from."
        )


def refuse_overrides(overrides: Mapping[str, str], command: str) -> None:
    """Raises a UserError if there are overrides, for commands that read the config of a run."""
    if overrides:
        keys = ", ".join(f"--config.{key}" for key in overrides)
        raise UserError(f"{command} uses the run as it was trained and takes no {keys}.")


def main_of(run: Callable[[ConfigDict, Path], Any]) -> Callable[[argparse.Namespace, Mapping[str, str]], None]:
    """Returns the main function of a command that several processes may run, with a config and a workdir alone."""

    def main(arguments: argparse.Namespace, overrides: Mapping[str, str]) -> None:
        with connected(arguments):
            run(load_config(arguments, overrides), arguments.workdir)

    return main
