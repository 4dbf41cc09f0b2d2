"""Calibration as part of a model: folded into its last dense layer, so that every format and program computes it."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from jaxtl.errors import UserError
from jaxtl.evaluate.scaling import Scaling
from jaxtl.models.base import GroupedModel
from jaxtl.trees import flatten, nest


def fold_into_head(variables: Mapping[str, Any], module: GroupedModel, scaling: Scaling) -> dict[str, Any]:
    """Returns variables whose logits are the calibrated ones; nothing but the last layer's kernel and bias changes.

    With one logit z for two classes it is exact in the probabilities, which are those of (0, z): the calibrated logits
    lose what both have in common.

    Args:
      variables: of the module.
      module: that computes the logits.
      scaling: what makes them calibrated.

    Raises:
      UserError: the scaling has biases, but the layer has none.
    """
    leaves = flatten(variables)
    for path in module.classifier_paths():
        kernel, name = np.asarray(leaves[path]), path.removesuffix("kernel") + "bias"
        scale, bias = scaling.factors(module.num_classes)
        if module.single_logit:
            scale, bias = scale[1:], bias[1:] - bias[:1]
        leaves[path] = (kernel * scale).astype(kernel.dtype)
        if name in leaves:
            before = np.asarray(leaves[name])
            leaves[name] = (before * scale + bias).astype(before.dtype)
        elif bias.any():
            raise UserError("the last layer of this model has no bias: it takes a temperature, but no vector scaling.")
    return nest(leaves)
