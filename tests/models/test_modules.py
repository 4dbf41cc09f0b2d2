"""What the modules compute: statistics as PyTorch's, stochastic parts where asked, half precision, image sizes."""

from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxtl import models
from jaxtl.models import hybrid, resnet_v2_network
from jaxtl.models.layers.patch_embed import PatchEmbed
from jaxtl.models.layers.standardized_conv import StandardizedConv
from jaxtl.pretrained.load import abstract_variables
from jaxtl.trees import nest


def test_patches_are_those_of_a_strided_convolution():
    import torch  # Here, as a GPU collects this file, maybe without it.

    images = np.random.default_rng(0).normal(size=(2, 12, 12, 3)).astype(np.float32)
    embed = PatchEmbed(patch=4, width=5)
    variables = jax.jit(embed.init)(jax.random.key(0), images)
    kernel = torch.from_numpy(np.asarray(variables["params"]["kernel"]).transpose(3, 2, 0, 1).copy())
    expected = torch.nn.functional.conv2d(torch.from_numpy(images).permute(0, 3, 1, 2), kernel, stride=4)
    expected = expected.flatten(2).transpose(1, 2)
    np.testing.assert_allclose(embed.apply(variables, images), expected, atol=1e-5)


def test_a_standardised_kernel_ignores_its_mean_and_scale():
    x = np.random.default_rng(0).normal(size=(2, 8, 8, 3)).astype(np.float32)
    conv = StandardizedConv(features=4, size=3, padding=1)
    variables = jax.jit(conv.init)(jax.random.key(0), x)
    changed = jax.tree.map(lambda kernel: 5 * kernel + 2, variables)
    np.testing.assert_allclose(conv.apply(variables, x), conv.apply(changed, x), atol=1e-4)


class Normalised(nn.Module):
    """The normalisation of BiT or of the hybrids alone, on maps [B, H, W, C]."""

    of: str

    @nn.compact
    def __call__(self, x):
        if self.of == "bit":
            return resnet_v2_network.Layers(False, 32, 1e-5, 1e-8, None, jnp.float32).norm(x, False, "norm")
        # A kernel of one pixel that hands every channel on would be standardised: the product is replaced.
        with nn.intercept_methods(lambda call, args, kw, context: x if context.module.name == "conv" else call(*args)):
            return hybrid.NormalisedConv(64, 1, 1, True, jnp.float32).run(x, "conv", "norm")


@pytest.mark.parametrize("of", ["bit", "hybrid"])
def test_groups_are_normalised_to_float32_where_the_mean_is_large(of):
    """As it is in later stages, whose inputs are sums over all blocks before; by hand in float64."""
    generator = np.random.default_rng(0)
    x = (generator.normal(size=(2, 7, 7, 64)) + np.repeat(generator.uniform(50, 100, 32), 2)).astype(np.float32)
    found = Normalised(of).init_with_output(jax.random.key(0), x)[0]
    groups = x.astype(np.float64).reshape(2, 49, 32, 2)
    variance = groups.var((1, 3), keepdims=True)
    expected = ((groups - groups.mean((1, 3), keepdims=True)) / np.sqrt(variance + 1e-5)).reshape(x.shape)
    # A mean near 100 is itself rounded by 1e-5 and more; the fast variance is off by 7e-3 here.
    np.testing.assert_allclose(found, np.maximum(expected, 0) if of == "bit" else expected, atol=1e-4)


VIT = "vit_s16:patch=8,width=32,depth=2,heads=2"
SWIN = "swin_t:blocks=2-1,heads=1-2,width=8,window=4"
MAXVIT = "maxvit_t:blocks=1,width=32,stem_width=8"


@pytest.mark.parametrize("name", [VIT, "resnet18:stages=1-1,width=8", "bit_r50x1:stages=1-1,width=32", SWIN, MAXVIT])
def test_bfloat16_computes_in_half_and_keeps_float32_at_both_ends(name):
    model = models.build(name, num_classes=3, image_size=32, options=models.ModelOptions(dtype=jnp.bfloat16))
    images = jax.ShapeDtypeStruct((1, 32, 32, 3), jnp.float32)
    variables = jax.eval_shape(model.init, jax.random.key(0), images)
    assert {leaf.dtype for leaf in jax.tree.leaves(variables)} == {jnp.dtype(jnp.float32)}
    names = [name for name, _ in model.groups()]
    middle = jax.eval_shape(lambda v, x: model.apply(v, x, stop=names[0]), variables, images)
    logits = jax.eval_shape(model.apply, variables, images)
    assert (middle.dtype, logits.dtype) == (jnp.bfloat16, jnp.float32)


@pytest.mark.parametrize(
    "name",
    [
        VIT,
        *(
            pytest.param(name, marks=pytest.mark.slow)
            for name in (
                "resnet18:stages=2-2,width=8",
                "bit_r50x1:stages=1-2,width=32",
                "resnet20_cifar:blocks=1",
                SWIN,
            )
        ),
    ],
)
def test_stochastic_depth_draws_in_training_only(name):
    model = models.build(name, num_classes=0, image_size=32, options=models.ModelOptions(drop_path=0.9))
    generator = np.random.default_rng(0)
    leaves = abstract_variables(model, 32)
    variables = nest(
        {path: generator.uniform(0.1, 0.2, leaf.shape).astype(np.float32) for path, leaf in leaves.items()}
    )
    images = generator.normal(size=(8, 32, 32, 3)).astype(np.float32)

    @partial(jax.jit, static_argnums=0)
    def run(train, seed):
        rngs, mutable = {"dropout": jax.random.key(seed)}, ["batch_stats"]
        return model.apply(variables, images, train=train, rngs=rngs, mutable=mutable)[0]

    assert np.any(run(True, 0) != run(True, 1))
    np.testing.assert_array_equal(run(False, 0), run(False, 1))
    np.testing.assert_array_equal(run(True, 0), run(True, 0))


def test_a_vit_refuses_images_of_another_size():
    model = models.build(VIT, num_classes=3, image_size=32)
    with pytest.raises(ValueError, match="images of 40 x 40 were given to a ViT built for 32 x 32"):
        jax.eval_shape(model.init, jax.random.key(0), jnp.ones((1, 40, 40, 3)))


def test_a_resnet_takes_images_of_any_size():
    model = models.build("resnet18:stages=1-1,width=8", num_classes=3)
    for shape in [(1, 33, 47, 3), (1, 64, 64, 3)]:
        assert jax.eval_shape(model.init_with_output, jax.random.key(0), jnp.ones(shape))[0].shape == (1, 3)
