"""Serves what a location predicts: checked before anything is compiled, with the extra that it needs."""

import importlib.util
import warnings
from dataclasses import dataclass
from pathlib import Path

from jaxtl.deploy.serve.limits import Limits
from jaxtl.errors import UserError
from jaxtl.experiment.loading import Decisions, load_predictor

_NEEDED = ("starlette", "uvicorn", "python_multipart", "prometheus_client")


@dataclass(frozen=True)
class Place:
    """Where a server is reached, and what it fetches.

    Attributes:
      host: the address that it listens on; 0.0.0.0 for all of this machine.
      port: its port; 0 for any that is free.
      urls: whether addresses of images are fetched for clients.
      private_urls: whether those of this machine and its network are, too.
    """

    host: str = "127.0.0.1"
    port: int = 8000
    urls: bool = False
    private_urls: bool = False


HERE = Place()


def serve_location(
    location: str | Path, place: Place, limits: Limits, decisions: Decisions, *, batch_size: int
) -> None:
    """Serves the predictor of a location until SIGTERM.

    Args:
      location: as `loading.load_predictor` takes it.
      place: where.
      limits: of requests.
      decisions: how probabilities are given.
      batch_size: images that are computed at once, at most.

    Raises:
      UserError: something is missing, the port is in use, or there is nothing that predicts.
    """
    if missing := [name for name in _NEEDED if importlib.util.find_spec(name) is None]:
        raise UserError(
            f"serve needs {', '.join(missing)}, which {'is' if len(missing) == 1 else 'are'} not installed: "
            "pip install 'jaxtl[serve]'"
        )
    from jaxtl.deploy.serve.app import Service
    from jaxtl.deploy.serve.listening import open_socket
    from jaxtl.deploy.serve.server import Server

    if place.private_urls and not place.urls:
        raise UserError("private addresses are allowed, but addresses are not fetched at all: give --allow_urls, too.")
    listening = open_socket(place.host, place.port)
    try:
        predictor = load_predictor(location, decisions, batch_size=batch_size)
        predictor.judge_of(1)
    except BaseException:
        listening.close()
        raise
    # Each text of its own would be kept for ever, and who sends broken files chooses it.
    warnings.filterwarnings("ignore", category=UserWarning, module=r"PIL\.")
    host, port = listening.getsockname()[:2]
    print(f"{predictor.name}: {len(predictor.classes)} classes; compiles for batches of up to {batch_size}", flush=True)
    service = Service(predictor, limits, urls=place.urls, private_urls=place.private_urls)
    shown = f"[{host}]" if ":" in host else host

    def ready() -> None:
        print(f"ready: http://{shown}:{port}/ (POST /predict; /docs says how)", flush=True)

    Server(service).run_on(listening, ready)
    print("stopped; what was accepted is answered", flush=True)
