"""Joins the model that a user names with what its weights know: fields that leave no trace in the shapes."""

from jaxtl.errors import UserError
from jaxtl.models import fields_of, find_family, spec
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
      UserError: the name is unknown, or "auto" and the source does not say what it is.
    """
    if name == "auto":
        if not weights.model:
            raise UserError(f"{weights.location} does not say of which model it is; give config.model.name.")
        return weights.model
    family = find_family(name)
    if family.MODEL is not weights.family.MODEL:
        return name
    written = {item.partition("=")[0] for item in name.partition(":")[2].split(",")}
    unseen = {key: value for key, value in weights.unseen.items() if key not in written}
    return spec(family.MODEL, {**fields_of(name), **unseen})
