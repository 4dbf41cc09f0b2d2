"""A step of GoogLeNet with its auxiliary heads moves every parameter as torchvision's own training loop does."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from parity import images, load, nchw, randomise
from real_networks import CLASSES, DROPS, save, tv

from jaxtl import pretrained
from jaxtl.finetune import param_groups
from jaxtl.pretrained import rename
from jaxtl.train.optimizer import OptimizerOptions, make_optimizer
from jaxtl.train.state import TrainState
from jaxtl.train.step import train_step
from jaxtl.trees import flatten

RATE = 0.01


@pytest.mark.slow
def test_a_step_of_googlenet_is_that_of_torchvision(tmp_path):
    module = randomise(tv("googlenet", init_weights=False))
    place = save(module, tmp_path)
    model, variables = load(place, num_classes=CLASSES, image_size=32)
    batch, labels = images(32, count=4), np.array([0, 1, 2, 3])

    module.train()
    for layer in module.modules():
        if type(layer).__name__ in DROPS:
            layer.eval()
    optimizer = torch.optim.SGD(module.parameters(), lr=RATE)
    # The main logits, then those of the second auxiliary head and of the first.
    main, *auxiliary = module(nchw(batch))
    loss = torch.nn.functional.cross_entropy
    target = torch.from_numpy(labels)
    (loss(main, target) + 0.3 * sum(loss(part, target) for part in auxiliary)).backward()
    optimizer.step()

    groups = param_groups.assign(variables["params"], model.groups())
    ours = make_optimizer(groups, OptimizerOptions(name="sgd", learning_rate=RATE, momentum=0.0))
    state = TrainState.create(variables, ours, jax.random.key(0))
    step = jax.jit(partial(train_step, model=model, optimizer=ours, groups=groups))
    after, scalars = step(state, {"image": jnp.asarray(batch), "label": jnp.asarray(labels)})
    np.testing.assert_allclose(scalars["loss"], loss(main, target).item(), rtol=1e-4)

    torch.save(module.state_dict(), tmp_path / "after.pth")
    opened = pretrained.open_weights(str(tmp_path / "after.pth"))
    theirs = {path: rename.fill(parts, opened.arrays) for path, parts in opened.plan.parts.items()}
    before, moved = flatten(variables), flatten(after.variables)
    assert theirs.keys() == moved.keys()
    for path, expected in theirs.items():
        if path.startswith("params/"):
            change, other = np.asarray(moved[path] - before[path]), np.asarray(expected - before[path])
            # Of steps that rounding does not drown.
            scale = max(np.abs(other).max(), 1e-5)
            np.testing.assert_allclose(change / scale, other / scale, atol=5e-3, err_msg=path)
