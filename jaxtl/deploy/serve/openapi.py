"""What the server takes and answers, as an OpenAPI document."""

from typing import Any

from jaxtl import __version__
from jaxtl.deploy.predictor import Predictor
from jaxtl.deploy.serve.limits import Limits

_ERROR = {"$ref": "#/components/schemas/Error"}


def describe(predictor: Predictor, limits: Limits, *, urls: bool) -> dict[str, Any]:
    """Returns the OpenAPI document of a server.

    Args:
      predictor: what answers.
      limits: of requests.
      urls: whether addresses are fetched.
    """
    bounds = f"At most {limits.images} images, {limits.megabytes:g} MB, and {limits.megapixels:g} megapixels an image."
    return {
        "openapi": "3.1.0",
        "info": {"title": f"jaxtl: {predictor.facts.get('model', '')}", "version": __version__},
        "paths": {
            "/predict": {"post": _predict(bounds, urls)},
            "/health": {"get": _plain("Whether the server works", {"200": "It does.", "503": "It does not."})},
            "/ready": {
                "get": _plain("Whether it answers now", {"200": "It does.", "503": "It compiles still, or stops."})
            },
            "/metrics": {"get": _plain("Counters, for Prometheus", {"200": "Its text format."})},
            "/openapi.json": {"get": _plain("This document", {"200": "OpenAPI 3.1."})},
            "/docs": {"get": _plain("This document as a page", {"200": "HTML."})},
            "/": {"get": _plain("A page to drop a photograph on", {"200": "HTML."})},
        },
        "components": {"schemas": _schemas(predictor)},
    }


def _predict(bounds: str, urls: bool) -> dict[str, Any]:
    body: dict[str, Any] = {"images": {"type": "array", "items": {"type": "string", "contentEncoding": "base64"}}}
    if urls:
        body["urls"] = {"type": "array", "items": {"type": "string", "format": "uri"}}
    body["top"] = {"type": "integer", "minimum": 1, "default": 5}
    file = {"type": "string", "format": "binary"}
    multipart = {"type": "object", "properties": {"image": {"type": "array", "items": file}, "top": body["top"]}}
    answers = {
        "400": "The request is malformed.",
        "403": "Addresses are not fetched.",
        "408": "The request came too slowly.",
        "413": "It is too large.",
        "415": "Its content type is not taken.",
        "422": "No image of it can be read.",
        "503": "Too much is waiting, or the server is not ready: come again after Retry-After seconds.",
    }
    found = {"description": "An entry for each image, in order.", "content": _json("#/components/schemas/Answer")}
    return {
        "summary": "Say what images show",
        "description": bounds,
        "parameters": [
            {"name": "top", "in": "query", "description": "How many classes are given.", "schema": body["top"]}
        ],
        "requestBody": {
            "required": True,
            "content": {
                "multipart/form-data": {"schema": multipart},
                "application/json": {"schema": {"type": "object", "properties": body, "additionalProperties": False}},
                "image/*": {"schema": file},
            },
        },
        "responses": {
            "200": found,
            **{
                status: {"description": text, "content": {"application/json": {"schema": _ERROR}}}
                for status, text in answers.items()
            },
        },
    }


def _plain(summary: str, answers: dict[str, str]) -> dict[str, Any]:
    return {"summary": summary, "responses": {status: {"description": text} for status, text in answers.items()}}


def _json(reference: str) -> dict[str, Any]:
    return {"application/json": {"schema": {"$ref": reference}}}


def _schemas(predictor: Predictor) -> dict[str, Any]:
    text, number = {"type": "string"}, {"type": "number", "minimum": 0, "maximum": 1}
    named = {"enum": list(predictor.classes)} if len(predictor.classes) <= 100 else text
    likely = {"type": "object", "properties": {"class": named, "probability": number}}
    line = {
        "file": text,
        "index": {"type": "integer"},
        "class": {"oneOf": [named, {"type": "null"}]},
        "probability": number,
        "top5": {"type": "array", "items": likely, "description": "Called top3 for top=3."},
        "error": {"type": "string", "description": "Why there is no answer for this image."},
    }
    predictions = {"type": "array", "items": {"type": "object", "properties": line}}
    return {
        "Answer": {"type": "object", "properties": {"model": text, "predictions": predictions}},
        "Error": {"type": "object", "properties": {"error": text}},
    }
