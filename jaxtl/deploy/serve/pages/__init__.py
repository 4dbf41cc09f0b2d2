"""The pages of the server: one to drop a photograph on, one that shows what the server takes; they load nothing."""

import base64
import hashlib
import json
import re
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from jaxtl.deploy.predictor import Predictor
from jaxtl.deploy.serve.limits import Limits

_TEMPLATES = Environment(
    loader=FileSystemLoader(Path(__file__).parent), autoescape=True, undefined=StrictUndefined, trim_blocks=True
)


def index(predictor: Predictor, limits: Limits) -> str:
    """Returns the page to drop a photograph on."""
    return _TEMPLATES.get_template("index.html").render(
        model=predictor.facts.get("model", ""),
        classes=len(predictor.classes),
        megabytes=f"{limits.megabytes:g}",
        images=limits.images,
    )


def documents(openapi: dict[str, Any]) -> str:
    """Returns the page of an OpenAPI document."""
    return _TEMPLATES.get_template("docs.html").render(
        document=openapi, example=json.dumps(openapi["components"]["schemas"], indent=1)
    )


def headers(page: str) -> dict[str, str]:
    """Returns the headers of a page: it runs its own script and shows its own style, and nothing from elsewhere."""
    found = {
        kind: " ".join(f"'sha256-{_digest(text)}'" for text in re.findall(rf"<{kind}>(.*?)</{kind}>", page, re.DOTALL))
        for kind in ("script", "style")
    }
    policy = (
        f"default-src 'none'; script-src {found['script'] or chr(39) + 'none' + chr(39)}; style-src {found['style']}; "
        "img-src blob: data:; connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )
    return {"Content-Security-Policy": policy, "X-Content-Type-Options": "nosniff", "Referrer-Policy": "no-referrer"}


def _digest(text: str) -> str:
    return base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
