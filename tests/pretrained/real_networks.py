"""Networks that torchvision, timm and transformers make and save themselves, and the comparison with ours."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from parity import images, load, nchw, outputs, randomise, same, train_once
from real_packages import timm, torchvision

from jaxtl import pretrained

CLASSES = 5
# They draw in training; as they are in evaluation, the rest of a training batch can be compared.
DROPS = ("Dropout", "StochasticDepth", "DropPath")


def tv(name: str, **arguments: Any) -> Any:
    """Makes a network of torchvision."""
    return getattr(torchvision().models, name)(num_classes=CLASSES, **arguments)


def tm(name: str, **arguments: Any) -> Any:
    """Makes a network of timm."""
    return timm().create_model(name, num_classes=CLASSES, **arguments)


def hf(kind: str, **arguments: Any) -> Any:
    """Makes a network of transformers."""
    import transformers

    config = getattr(transformers, f"{kind}Config")(num_labels=CLASSES, **arguments)
    return getattr(transformers, f"{kind}ForImageClassification")(config)


def save(module: Any, folder: Path) -> Path:
    """Writes a network as users of its package do; returns what to open."""
    package = type(module).__module__.partition(".")[0]
    if package == "transformers":
        module.save_pretrained(folder)
    elif package == "timm" and hasattr(module, "pretrained_cfg"):
        from timm.models import save_for_hf

        save_for_hf(module, folder, safe_serialization=True)
    else:
        torch.save(module.state_dict(), folder / "weights.pth")
        return folder / "weights.pth"
    return folder


def check(
    module: Any, folder: Path, *, sizes: Sequence[int], after: str, part: str, name: str = "auto", batch: int = 4
) -> Mapping[str, Any]:
    """Compares logits, one intermediate map, and a batch in training mode with what the real network gives.

    Args:
      module: the network, as its package makes it; it gets random parameters and statistics.
      folder: where it is saved.
      sizes: sides of the images; those of the training batch are the first.
      after: the group of ours whose output is compared.
      part: the path of the part of the network that returns the same: maps [B, C, h, w] or [B, h, w, C], or tokens.
      name: of our model, or "auto".
      batch: the number of images in training.

    Returns:
      Ours: the variables.
    """
    randomise(module).eval()
    place = save(module, folder)
    kept: list[Any] = []
    module.get_submodule(part).register_forward_hook(lambda _, __, found: kept.append(found))
    variables: Mapping[str, Any] = {}
    for size in sizes:
        model, variables = load(place, num_classes=CLASSES, image_size=size, name=name)
        kept.clear()
        with torch.no_grad():
            theirs = _logits(module(nchw(images(size))))[0]
        ours, logits = outputs(model, variables, images(size), after=after)
        same(logits, theirs)
        same(ours, _as_ours(kept[0], ours.shape))
    if "batch_stats" in variables:
        _check_training(module, place, images(sizes[0], count=batch), name)
    return variables


def _check_training(module: Any, place: Path, batch: np.ndarray, name: str) -> None:
    model, variables = load(place, num_classes=CLASSES, image_size=batch.shape[1], name=name)
    module.train()
    for layer in module.modules():
        if type(layer).__name__ in DROPS:
            layer.eval()
    theirs = _logits(module(nchw(batch)))
    found, statistics = train_once(model, variables, batch)
    # torchvision names the second auxiliary head before the first.
    logits, auxiliary = found if isinstance(found, tuple) else (found, {})
    for ours, expected in zip((logits, *reversed(auxiliary.values())), theirs, strict=True):
        same(ours, expected)
    plan = pretrained.open_weights(str(place)).plan.parts
    updated = {key.removeprefix("timm."): value for key, value in module.named_buffers()}
    compared = 0
    for target, parts in plan.items():
        if target.startswith("batch_stats/"):
            ours = np.asarray(statistics[target.removeprefix("batch_stats/")])
            np.testing.assert_allclose(ours, updated[parts[0].source].numpy(), atol=1e-4, rtol=1e-4)
            compared += 1
    assert compared == len(statistics)


def _logits(found: Any) -> list[Any]:
    """Gives the logits of a network, and after them those of its auxiliary heads."""
    if hasattr(found, "logits") and not isinstance(found, tuple):
        return [found.logits]
    return [part for part in found if part is not None] if isinstance(found, tuple) else [found]


def _as_ours(found: Any, shape: tuple[int, ...]) -> np.ndarray:
    """Brings maps or tokens of PyTorch into our layout."""
    found = found[0] if isinstance(found, tuple) else getattr(found, "last_hidden_state", found)
    theirs = found.detach().numpy()
    if theirs.ndim == 3 and len(shape) == 4:
        return theirs.reshape(shape)  # A map as a row of tokens.
    return theirs.transpose(0, 2, 3, 1) if theirs.ndim == 4 and theirs.shape != shape else theirs
