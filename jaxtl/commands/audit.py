"""The audit command: what may be wrong with the images and labels of a config, as a page and a table to edit."""

import argparse
from collections.abc import Mapping
from pathlib import Path

from ml_collections import ConfigDict

from jaxtl.audit.findings import Audit
from jaxtl.commands import flags
from jaxtl.experiment.auditing import audit_source


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds this command's flags."""
    flags.add_config(parser)
    flags.add_workdir(parser, "where audit.html, audit.csv and audit.json go; not that of a run")


def main(arguments: argparse.Namespace, overrides: Mapping[str, str]) -> None:
    """Runs the command from its flags."""
    run(flags.load_config(arguments, overrides), arguments.workdir)


def run(config: ConfigDict, workdir: Path | str) -> Audit:
    """Looks for duplicates, leaks, unreadable and poor images, and with weights for wrong labels; returns them."""
    return audit_source(config, Path(workdir))
