"""timm's side of gpu.py: its real models under torch.compile, as their users train them."""

import contextlib
import re
import sys
import time
from multiprocessing.connection import Connection
from typing import Any

import torch
from gpu_common import CLASSES, WARMUP, Row, noise
from torch import nn
from torch.nn import functional as F

try:
    import timm
except RuntimeError as error:
    # torchvision's compiled operators, which nothing here uses, do not fit this PyTorch: declared, they are not missed.
    if "torchvision::" not in str(error):
        raise
    for module in [module for module in sys.modules if module.partition(".")[0] in ("timm", "torchvision")]:
        del sys.modules[module]
    OPERATORS = torch.library.Library("torchvision", "DEF")  # They are there as long as this object.
    for operator in ("nms", "qnms"):
        OPERATORS.define(f"{operator}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    import timm

# jaxtl's names -> timm's. vit_petals, a small ViT to try the script with, has no name there.
PETALS = {"img_size": 64, "patch_size": 8, "embed_dim": 64, "depth": 6, "num_heads": 4}
NAMES: dict[str, tuple[str, dict[str, Any]]] = {
    "vit_ti16": ("vit_tiny_patch16_224", {}),
    "vit_s16": ("vit_small_patch16_224", {}),
    "vit_b16": ("vit_base_patch16_224", {}),
    "vit_l16": ("vit_large_patch16_224", {}),
    "vit_petals": ("vit_tiny_patch16_224", PETALS),
    "resnet18": ("resnet18", {}),
    "resnet50": ("resnet50", {}),
    "vgg16": ("vgg16", {}),
    "mobilenet_v3_large": ("mobilenetv3_large_100", {}),
    "efficientnet_b0": ("efficientnet_b0", {}),
    "convnext_t": ("convnext_tiny", {}),
}


def create(name: str, classes: int, **fields: Any) -> nn.Module:
    theirs, more = NAMES[name]
    return timm.create_model(theirs, pretrained=False, num_classes=classes, **more, **fields)


def freeze(model: nn.Module, unfreeze: str) -> list[nn.Parameter]:
    """Puts a model into training but for what is frozen: everything, unless `unfreeze` says "all"; gives what trains.

    Args:
      model: of timm.
      unfreeze: "all", "head", or a number k for the head and the last k blocks.
    """
    model.train()
    last = 0 if unfreeze in ("all", "head") else int(unfreeze)
    blocks = [path for path, _ in model.named_modules() if re.fullmatch(r"blocks\.\d+|layer\d\.\d+", path)]
    kept = ("head", "fc", "classifier", *((*blocks[-last:], "norm", "fc_norm") if last else ()))
    for path, module in model.named_modules():
        trains = unfreeze == "all" or any(path == name or path.startswith(f"{name}.") for name in kept)
        for parameter in module.parameters(recurse=False):
            parameter.requires_grad_(trains)
        if isinstance(module, nn.BatchNorm2d) and not trains:
            module.eval()
    return [parameter for parameter in model.parameters() if parameter.requires_grad]


def half_precision(device: str) -> contextlib.AbstractContextManager:
    return torch.autocast(device, torch.bfloat16)


def compiled(model: nn.Module, device: str) -> nn.Module:
    return torch.compile(model) if device == "cuda" else model  # type: ignore[return-value]


def contestant(pipe: Connection, row: Row) -> None:
    """Makes the step ready; answers ("run", steps) with seconds, and "memory"."""
    begun = time.perf_counter()
    torch.manual_seed(0)
    torch.backends.cudnn.benchmark = True
    model = create(row.model, CLASSES).to(row.device)
    images, labels = noise(row)
    pixels = torch.from_numpy(images).permute(0, 3, 1, 2).contiguous().to(row.device)
    targets = torch.from_numpy(labels).long().to(row.device)
    if not row.model.startswith("vit"):
        model, pixels = model.to(memory_format=torch.channels_last), pixels.to(memory_format=torch.channels_last)
    trained = freeze(model, row.unfreeze)
    forward = compiled(model, row.device)
    optimizer = torch.optim.AdamW(trained, 1e-4, weight_decay=0.05, fused=True)

    def run(count: int) -> float:
        wait(row.device)
        begun = time.perf_counter()
        for _ in range(count):
            with half_precision(row.device):
                loss = F.cross_entropy(forward(pixels), targets)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        wait(row.device)
        return time.perf_counter() - begun

    run(WARMUP)
    pipe.send({"ready_seconds": time.perf_counter() - begun})
    while True:
        match pipe.recv():
            case "run", count:
                pipe.send(run(count))
            case "memory":
                pipe.send(torch.cuda.max_memory_allocated() if row.device == "cuda" else 0)


def wait(device: str) -> None:
    if device == "cuda":
        torch.cuda.synchronize()
