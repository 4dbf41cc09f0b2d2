"""The serve command: answers requests over HTTP by the predictor that `jaxtl.load` gives, and has a page to try it."""

import argparse
from collections.abc import Mapping
from pathlib import Path

from jaxtl.commands import flags
from jaxtl.deploy.serve.limits import USUAL, Limits
from jaxtl.experiment.loading import PLAIN, Decisions
from jaxtl.experiment.serving import HERE, Place, serve_location

_LIMITS = {
    "megabytes": "of a request",
    "images": "of a request",
    "megapixels": "of an image",
    "total_megabytes": "of all requests that are not answered yet",
    "connections": "that are open at a time",
    "receive_s": "seconds in which a request must be here, and its answer be taken",
    "answer_s": "seconds after which a request is given up",
    "delay_ms": "that an image waits for others to be computed with",
    "latency_ms": "in which an image is to be answered: what would wait longer is told to come again",
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds this command's flags."""
    parser.add_argument("--workdir", required=True, metavar="DIR", help="a run, an ensemble, or an export")
    parser.add_argument("--host", default="127.0.0.1", help="the address to listen on; 0.0.0.0 for all (127.0.0.1)")
    parser.add_argument("--port", type=int, default=8000, help="the port; 0 for any that is free (8000)")
    parser.add_argument("--batch_size", type=int, default=32, metavar="N", help="images computed at once (32)")
    parser.add_argument("--calibrated", action="store_true", help="give calibrated probabilities")
    parser.add_argument("--reject_below", type=float, metavar="P", help='as of predict: say "class": null below it')
    parser.add_argument("--operating_points", action="store_true", help="decide as operating_points.json says")
    parser.add_argument("--allow_urls", action="store_true", help="fetch addresses of images for clients")
    parser.add_argument("--allow_private_urls", action="store_true", help="also of this machine and its network")
    for name, text in _LIMITS.items():
        parser.add_argument(
            f"--{name}", type=int if name in ("images", "connections") else float, metavar="N", help=text
        )


def main(arguments: argparse.Namespace, overrides: Mapping[str, str]) -> None:
    """Runs the command from its flags."""
    flags.refuse_overrides(overrides, "serve")
    run(
        arguments.workdir,
        Place(arguments.host, arguments.port, arguments.allow_urls, arguments.allow_private_urls),
        Limits(**{name: value for name in _LIMITS if (value := getattr(arguments, name)) is not None}),
        Decisions(arguments.calibrated, arguments.reject_below, arguments.operating_points),
        batch_size=arguments.batch_size,
    )


def run(
    location: Path | str,
    place: Place = HERE,
    limits: Limits = USUAL,
    decisions: Decisions = PLAIN,
    *,
    batch_size: int = 32,
) -> None:
    """Serves until SIGTERM or SIGINT, and then ends what it has accepted."""
    serve_location(location, place, limits, decisions, batch_size=batch_size)
