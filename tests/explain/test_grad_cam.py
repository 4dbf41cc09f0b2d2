from functools import partial

import jax
import numpy as np
import pytest
import torch
from linear import Linear, Maps, draw, normal
from parity import images, load, nchw, randomise
from real_packages import torchvision

from jaxtl import models
from jaxtl.errors import UserError
from jaxtl.explain.grad_cam import grad_cam, groups_with_maps


def test_before_a_mean_and_a_linear_head_it_is_cam():
    model, batch, classes = Maps(), normal(2, 8, 8, 3), np.array([2, 0])
    variables = draw(model)
    first = model.apply(variables, batch, stop="conv")
    kernel, bias = variables["params"]["body"]["kernel"], variables["params"]["body"]["bias"]
    dimensions = ("NHWC", "HWIO", "NHWC")
    last = (
        jax.lax.conv_general_dilated(first, kernel, (1, 1), "SAME", dimension_numbers=dimensions)
        + bias[None, None, None]
    )
    head = variables["params"]["head"]["kernel"][:, classes].T
    expected = np.maximum((np.maximum(last, 0) * head[:, None, None]).sum(-1) / 64, 0)
    assert expected.max() > 0.01
    for group in ("", "body"):
        np.testing.assert_allclose(grad_cam(model, variables, batch, classes, group=group), expected, atol=1e-6)


def test_a_map_is_enlarged_to_the_image_and_small_ones_at_the_end_are_passed_over():
    model = models.build("lenet5", num_classes=3)
    variables, batch = draw(model), normal(2, 32, 32, 3)
    assert groups_with_maps(model, variables, batch) == {"conv1": 196, "conv2": 25}
    maps = jax.eval_shape(partial(grad_cam, model), variables, batch, np.array([0, 1]))
    assert (maps.shape, maps.dtype) == ((2, 32, 32), np.float32)
    assert groups_with_maps(model, variables, normal(1, 17, 17, 3)) == {"conv1": 36, "conv2": 1}


def test_a_group_without_maps_is_refused():
    model, batch, classes = Maps(), normal(1, 8, 8, 3), np.array([0])
    for group, what in (("head", "has no maps"), ("layer", "is none of the model")):
        with pytest.raises(UserError, match=f"group '{group}' {what}; Grad-CAM can look at conv, body"):
            grad_cam(model, draw(model), batch, classes, group=group)
    with pytest.raises(UserError, match="no group of Linear has maps"):
        grad_cam(Linear(), draw(Linear()), normal(1, 4, 4, 3), classes)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "part", "group"),
    [
        ("resnet18", "layer4", ""),
        ("resnet18", "layer2.0", "layer2.0"),
        # The gradient of its pooling once was another one, compiled.
        ("vgg11_bn", "features.14", "block3"),
        ("vgg11_bn", "features.21", "block4"),
    ],
)
def test_it_is_that_of_the_real_network_by_hooks(name, part, group, tmp_path):
    module = randomise(getattr(torchvision().models, name)(num_classes=5)).eval()
    torch.save(module.state_dict(), tmp_path / "weights.pth")
    model, variables = load(tmp_path / "weights.pth", num_classes=5, image_size=64)
    batch, classes, kept = images(64), np.array([3, 1]), []

    def keep(_, __, maps):
        maps.retain_grad()
        kept.append(maps)

    module.get_submodule(part).register_forward_hook(keep)
    module(nchw(batch))[torch.arange(2), torch.from_numpy(classes)].sum().backward()
    (maps,) = kept
    cam = (maps * maps.grad.mean((2, 3), keepdim=True)).sum(1, keepdim=True).relu()
    expected = torch.nn.functional.interpolate(cam, size=(64, 64), mode="bilinear").detach().numpy()[:, 0]
    assert expected.max() > 0
    found = grad_cam(model, variables, batch, classes, group=group)
    np.testing.assert_allclose(found, expected, atol=1e-3 * expected.max())
