"""What compress is asked for: a recipe, its numbers, and which recipe takes which."""

import math
from dataclasses import dataclass
from typing import Any

from jaxtl.compress.quantization import FORMS
from jaxtl.errors import UserError

RECIPES = {
    "prune": "the smallest weights become zero, and stay zero",
    "2:4": "two of each four inputs of a unit become zero",
    "structure": "whole units go: channels between convolutions, units of MLPs, heads",
    **FORMS,
}
SCOPES = {
    "unit": "each unit by itself, by its weights times the norms of their inputs on training images",
    **{scope: f"{name} by the size of weights" for scope, name in (("global", "all"), ("group", "each group"))},
}
"""What has the share of zeros, and by what they are chosen."""

# What each recipe takes, with the value that it usually has.
_USUAL: dict[str, dict[str, float | str]] = {
    "prune": {"sparsity": 0.5, "ramp": 0.0, "scope": "unit", "epochs": 2.0},
    "2:4": {"scope": "unit", "epochs": 2.0},
    "structure": {"flops": 0.3, "epochs": 4.0},
    **{form: {"epochs": 0.0} for form in FORMS},
}


@dataclass(frozen=True)
class Recipe:
    """What is asked for, from `make_recipe`; what the recipe does not take is 0 or "".

    Attributes:
      name: one of RECIPES.
      sparsity: the share of weights that becomes zero.
      flops: the share of FLOPs that goes.
      epochs: of fine-tuning after it; 0 for none.
      ramp: the share of the fine-tuning in which the zeros grow; 0 for all before it.
      scope: of pruning, one of SCOPES.
    """

    name: str
    sparsity: float = 0.0
    flops: float = 0.0
    epochs: float = 0.0
    ramp: float = 0.0
    scope: str = ""

    def options(self) -> dict[str, float | str]:
        """Returns what it takes, by name."""
        return {name: getattr(self, name) for name in _USUAL[self.name]}

    def in_words(self) -> str:
        """Says what it does, with its numbers."""
        amount = {"prune": f" ({self.sparsity:.0%})", "structure": f" ({self.flops:.0%} of the FLOPs)"}
        growing = f", growing over {self.ramp:.0%} of the steps" if self.ramp else ""
        tuned = f"; then {self.epochs:g} epochs of fine-tuning" if self.epochs else ""
        return f"{self.name}: {RECIPES[self.name]}{amount.get(self.name, '')}{growing}{tuned}"


def make_recipe(
    name: str,
    *,
    sparsity: float | None = None,
    flops: float | None = None,
    epochs: float | None = None,
    ramp: float | None = None,
    scope: str | None = None,
) -> Recipe:
    """Returns a recipe, with what it usually has where None is given; the arguments are those of `Recipe`.

    Raises:
      UserError: there is no such recipe, it does not take what is given, or a number is out of its range.
    """
    if name not in RECIPES:
        raise UserError(f"--recipe={name} is none of {', '.join(RECIPES)}.")
    asked = {"sparsity": sparsity, "flops": flops, "epochs": epochs, "ramp": ramp, "scope": scope}
    given = {option: value for option, value in asked.items() if value is not None}
    problems = [
        UserError(f"--{option} is for {takers(option)}, not for --recipe={name}.")
        for option in given
        if option not in _USUAL[name]
    ]
    if problems:
        raise UserError.join(problems)
    values: dict[str, Any] = {**_USUAL[name], **given}
    recipe = Recipe(name, **values)
    if problems := _problems(recipe):
        raise UserError.join(problems)
    return recipe


def takers(option: str) -> str:
    """Names the recipes that take an option."""
    *others, last = (name for name, usual in _USUAL.items() if option in usual)
    return f"{', '.join(others)} and {last}" if others else last


def _problems(recipe: Recipe) -> list[UserError]:
    said = []
    for option in ("sparsity", "flops"):
        share = getattr(recipe, option)
        if option in recipe.options() and not 0 < share < 1:
            said.append(f"--{option} is {share:g}, but it must lie between 0 and 1, such as 0.5.")
    if not 0 <= recipe.ramp < 1:
        said.append(f"--ramp is {recipe.ramp:g}, but it must be at least 0 and below 1.")
    elif recipe.ramp and recipe.scope == "unit":
        said.append("--ramp goes by the size of weights: give --scope=global or group with it.")
    if recipe.scope and recipe.scope not in SCOPES:
        said.append(f"--scope={recipe.scope} is none of {', '.join(SCOPES)}.")
    if not 0 <= recipe.epochs < math.inf or (recipe.ramp and not recipe.epochs):
        said.append(f"--epochs is {recipe.epochs:g}, but it must be 0 or more, and above 0 with --ramp.")
    return [UserError(text) for text in said]
