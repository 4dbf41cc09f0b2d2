"""The explain command: which pixels the predictions of a run rest on, as pictures and a page."""

import argparse
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from jaxtl.commands import flags
from jaxtl.deploy.fetch import is_address
from jaxtl.experiment.explaining import Request, explain_run


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds this command's flags."""
    flags.add_workdir(parser, "the run whose best checkpoint is explained")
    parser.add_argument(
        "--method",
        default="auto",
        metavar="NAME",
        help="grad_cam, integrated_gradients or occlusion, and for ViT and Swin rollout or gradient_attention; auto: "
        "gradient_attention for a ViT, else grad_cam",
    )
    parser.add_argument("--group", default="", metavar="NAME", help="whose maps grad_cam looks at (the last)")
    parser.add_argument(
        "--class", default="", dest="class_name", metavar="NAME", help="the class to explain (the predicted one)"
    )
    parser.add_argument("--output", type=Path, metavar="DIR", help="where the pictures go (WORKDIR/explain)")
    parser.add_argument(
        "files", nargs="+", metavar="FILE_OR_DIR", help="images, folders of images, or addresses of images"
    )


def main(arguments: argparse.Namespace, overrides: Mapping[str, str]) -> int:
    """Runs the command from its flags; returns 1 if a file could not be read."""
    flags.refuse_overrides(overrides, "explain")
    request = Request(arguments.method, arguments.group, arguments.class_name)
    return run(arguments.workdir, arguments.files, output=arguments.output, request=request)


def run(
    workdir: Path | str, paths: Sequence[Path | str], *, output: Path | None = None, request: Request | None = None
) -> int:
    """Writes a picture for each image, and a page; returns 1 if an image could not be read, else 0."""
    workdir = Path(workdir)
    places = [str(path) if is_address(str(path)) else Path(path) for path in paths]
    failed = explain_run(workdir, places, output or workdir / "explain", request or Request())
    for line in failed:
        print(line, file=sys.stderr)
    return int(bool(failed))
