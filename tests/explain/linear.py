"""Networks so small that their explanations can be written down, and arrays for them."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from jaxtl.models.base import GroupedModel, classify


class Linear(GroupedModel):
    """Logits that are linear in the pixels."""

    num_classes: int = 3
    image_size: int = 4

    def groups(self):
        return (("head", "head"),)

    def run_group(self, x, name, train):
        return classify(x.reshape(len(x), -1), self.num_classes, train=train)


class Maps(GroupedModel):
    """One convolution, the mean of its maps, and a linear head: Grad-CAM is CAM by the number of places."""

    num_classes: int = 3
    image_size: int = 8

    def groups(self):
        return (("conv", "conv"), ("body", "body"), ("head", "head"))

    def run_group(self, x, name, train):
        if name == "head":
            return classify(x, self.num_classes, train=train)
        x = nn.relu(nn.Conv(8, (3, 3), name=name)(x))
        return x if name == "conv" else self.pooled(x)


def normal(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def draw(model, seed=0, side=None, scale=1.0):
    """Variables with random values everywhere, in the head too."""
    side = side or model.image_size
    shapes = jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, side, side, 3)))
    generator = np.random.default_rng(seed)

    def leaf(path, shape):
        values = generator.normal(size=shape.shape).astype(np.float32)
        name = path[-1].key
        if name in ("scale", "var"):
            return 1 + 0.1 * np.abs(values)
        fan = np.prod(shape.shape[:-1]) if name == "kernel" else 100
        return scale * values / np.float32(np.sqrt(fan))

    return jax.tree_util.tree_map_with_path(leaf, shapes)
