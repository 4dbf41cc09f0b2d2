"""What the parity tests share: random sources, and the comparison of two models."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import torch

from jaxtl import models, pretrained

TOLERANCE = 1e-4


def randomise(module: torch.nn.Module, seed: int = 0) -> torch.nn.Module:
    """Gives every parameter and statistic a value of its own, so that no rule can be missing or crossed unnoticed."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, tensor in module.state_dict().items():
            if not tensor.is_floating_point():
                continue
            noise = torch.randn(tensor.shape, generator=generator)
            if name.endswith("running_var"):
                tensor.copy_(0.5 + noise.abs())
            elif tensor.ndim == 1 and name.endswith("weight"):
                tensor.copy_(1 + 0.3 * noise)
            else:
                tensor.copy_(noise * (0.3 if tensor.ndim < 2 else 0.8 / np.sqrt(tensor[0].numel())))
    return module


def images(size: int, *, count: int = 2, channels: int = 3) -> np.ndarray:
    """Gives random images [B, H, W, C]."""
    return np.random.default_rng(size).normal(size=(count, size, size, channels)).astype(np.float32)


def nchw(batch: np.ndarray) -> torch.Tensor:
    """Gives a batch as PyTorch wants it."""
    return torch.from_numpy(batch.transpose(0, 3, 1, 2).copy())


def nhwc(maps: torch.Tensor) -> np.ndarray:
    """Gives PyTorch's feature maps as we have them."""
    return maps.detach().numpy().transpose(0, 2, 3, 1)


def load(location: Path, *, num_classes: int, image_size: int, name: str = "auto"):
    """Opens a source and fills its model on the way that the commands take; returns (model, variables)."""
    opened = pretrained.open_weights(str(location), model="" if name == "auto" else name)
    model = models.build(pretrained.resolve_model(opened, name), num_classes=num_classes, image_size=image_size)
    head = "keep" if num_classes else "auto"
    variables, load_report = pretrained.load_pretrained(
        opened, model, image_size=image_size, head=head, rng=jax.random.key(0)
    )
    assert not load_report.contradicted
    assert not load_report.initialised
    return model, variables


def same(ours: jax.Array, theirs: np.ndarray | torch.Tensor) -> None:
    """Compares within 1e-4, and 1e-5 of what is large, and sees to it that there is something to compare."""
    theirs = theirs.detach().numpy() if isinstance(theirs, torch.Tensor) else np.asarray(theirs)
    assert theirs.std() > 0.01
    assert ours.shape == theirs.shape
    # Without LLVM's passes no product is fused with its sum, so that activations of 7 round apart by a little more.
    np.testing.assert_allclose(np.asarray(ours), theirs, atol=TOLERANCE, rtol=TOLERANCE / 10)


def outputs(model, variables, batch: np.ndarray, *, after: str) -> tuple[jax.Array, jax.Array]:
    """Gives what the group `after` returns, and the logits that follow from it."""
    names = [name for name, _ in model.groups()]
    following = names[names.index(after) + 1]

    @jax.jit
    def run(variables, batch):
        middle = model.apply(variables, batch, stop=after)
        return middle, model.apply(variables, middle, start=following)

    return run(variables, batch)


def train_once(model, variables, batch: np.ndarray):
    """Runs one batch in training mode; returns (logits, the updated statistics by path)."""
    run = jax.jit(lambda variables, batch: model.apply(variables, batch, train=True, mutable=["batch_stats"]))
    logits, updated = run(variables, jnp.asarray(batch))
    leaves = jax.tree.leaves_with_path(updated["batch_stats"])
    return logits, {"/".join(key.key for key in path): leaf for path, leaf in leaves}
