"""Which architecture a source says it is of, and whether that one is known here: a name is believed before shapes.

Arrays of the same names and shapes may be of another function: a ResNet that blurs before it subsamples has those of a
plain one. Where a source names its architecture, a name that no family knows is refused.
"""

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jaxtl.errors import UserError
from jaxtl.models import families, names
from jaxtl.models.base import Family

_RESNET_LIKE = re.compile(r"[a-z0-9]*res(?:net|next|nest)[a-z0-9]*")
_TIMM_VIT = re.compile(r"[a-z0-9]*(?:vit|deit|beit)[a-z0-9]*_[a-z0-9_]*patch\d+")
# Parts of file names by which the models of timm differ whose first part is that of a plain one.
_CHANGED = frozenset(
    [
        "aa",
        "blur",
        "clip",
        "cr",
        "eca",
        "evos",
        "frn",
        "gap",
        "gn",
        "ibn",
        "quickgelu",
        "relpos",
        "se",
        "siglip",
        "siglip2",
        "srelpos",
        "wide",
    ]
)
_CHANGED_SMALL = frozenset(["evos", "gn", "hnf", "minimal", "mlp", "ols", "pruned", "rms", "rw", "xxlarge"])
_SMALL = re.compile(r"(?:tf_)?(?:convnext|efficientnet|mobilenet)")


class UnknownArchitecture(UserError):
    """The source names an architecture that is not supported.

    Attributes:
      architecture: the name.
      nearest: the model whose arrays are the most alike.
    """

    def __init__(self, architecture: str, nearest: str):
        self.architecture, self.nearest = architecture, nearest
        super().__init__(self.advise("model="))

    def advise(self, argument: str) -> str:
        """Words the error for whoever sets the model by that argument, such as "model="."""
        return (
            f"{self.architecture} is not supported; nearest: {self.nearest}; "
            f"{argument}{self.nearest} loads it all the same"
        )


def is_known(architecture: str) -> bool:
    """Tells whether a family computes what the models of that name in timm, torchvision or Keras compute."""
    return architecture in names() or any(re.fullmatch(pattern, architecture) for pattern in _patterns())


def unknown_name(text: str) -> str:
    """Gives a name that a file or a model bears if it says that the architecture is none that is known, else "".

    Args:
      text: such as "resnetblur50-84f4748f.pth", "resnet50_a1_0-14fe96d1.pth" or "flowers.safetensors", which says
        nothing.
    """
    stem = re.sub(r"-[0-9a-f]{8,64}$", "", Path(text).stem.partition(".")[0].lower())
    parts = re.split(r"[-_+ ]", stem)
    resnets = [part for part in parts if _RESNET_LIKE.fullmatch(part)]
    named = next((match[0] for pattern in _patterns() if (match := re.match(rf"(?:{pattern})(?=_|$)", stem))), "")
    expected = {"resnet", *named.split("_")}
    unknown = [part for part in resnets if part not in expected and not is_known(part)]
    # The other parts are words, too: they count beside the name of an architecture only.
    changed = _CHANGED.intersection(parts) - expected if resnets or "vit" in parts else set()
    if _SMALL.match(stem):
        changed = _CHANGED_SMALL.intersection(parts)
    strange = _TIMM_VIT.match(stem) and not any(re.match(rf"(?:{pattern})(?:_|$)", stem) for pattern in _patterns())
    return stem if unknown or changed or strange else ""


def _patterns() -> list[str]:
    return [pattern for family in families() for pattern in getattr(family, "ARCHITECTURES", ())]


def fields_of_name(family: Family, text: str) -> dict[str, Any]:
    """Gives the fields that the name of an architecture, or of a file, says and that its arrays do not show."""
    named: dict[str, Any] = {}
    for pattern, fields in getattr(family, "NAMED_FIELDS", {}).items():
        named |= fields if re.search(pattern, text) else {}
    return named


def keras_name(metadata: Mapping[str, str]) -> str:
    """Gives the name that Keras' configuration of a model says, such as "resnet50"; empty without one."""
    try:
        return str(json.loads(metadata.get("model_config", ""))["config"]["name"])
    except (ValueError, KeyError, TypeError):
        return ""


def telltale(shapes: Mapping[str, tuple[int, ...]]) -> str:
    """Names the unsupported family that some arrays show these weights to be of; empty if none does.

    Args:
      shapes: of the arrays, by the names of the source, in PyTorch's layout [D, C, H, W] where it is of a ResNet.
    """
    for family in families():
        for pattern, relative in getattr(family, "TELLTALES", {}).items():
            if any(re.fullmatch(pattern, name) for name in shapes):
                return relative
    return ""
