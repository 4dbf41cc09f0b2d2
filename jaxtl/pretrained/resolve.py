"""Joins the model that a user names with what its weights know: fields that leave no trace in the shapes."""

from typing import Any

from jaxtl.errors import UserError
from jaxtl.models import complete_fields, find_family, format_value
from jaxtl.models.head import HEAD_FIELDS
from jaxtl.pretrained.open import Weights


def resolve_model(weights: Weights, name: str) -> str:
    """Gives the full name of the model to build for these weights.

    Args:
      weights: an opened source.
      name: a model name, or "auto" for the one that the source is of.

    Returns:
      the name, completed by what would otherwise be computed wrongly in silence: "vit_b16" becomes
      "vit_b16:epsilon=1e-12" for weights of transformers. Fields that the user wrote stay as written.

    Raises:
      UserError: the name is unknown or of another family, or "auto" and the source does not say what it is.
    """
    if name == "auto":
        if not weights.model:
            raise UserError(
                f"{weights.location} does not say which model it holds: give the name of the model", arguments=["model"]
            )
        return weights.model
    if find_family(name).MODEL is not weights.family.MODEL:
        what = weights.model or f"a {weights.family.MODEL.__name__}"
        raise UserError(
            f'{weights.location} holds weights of {what}, not of {name}: give weights of {name}, or the model "auto" '
            "to train what these weights are of",
            arguments=["model", "weights"],
        )
    settled = ",".join(f"{key}={format_value(value)}" for key, value in _settled(weights, name).items())
    return name + ("," if ":" in name else ":") * bool(settled) + settled


def resolution_notes(weights: Weights, name: str) -> tuple[str, ...]:
    """Says in which fields `resolve_model` differs from the model that the name alone stands for, one line each."""
    if name in ("", "auto"):
        return ()
    alone = complete_fields(name)
    return tuple(
        f"{key}={format_value(value)}, as the weights say: {name} alone has {format_value(alone[key]) or 'none'}"
        for key, value in _settled(weights, name).items()
    )


def _settled(weights: Weights, name: str) -> dict[str, Any]:
    """Gives the fields without a trace in the shapes that weights settle otherwise than the name."""
    family = find_family(name)
    if family.MODEL is not weights.family.MODEL:
        return {}
    written = {item.partition("=")[0] for item in name.partition(":")[2].split(",")}
    alone = complete_fields(name)
    return {
        key: value
        for key, value in weights.unseen.items()
        if key not in written and key in (*family.MODEL.unseen, *HEAD_FIELDS) and alone.get(key) != value
    }
