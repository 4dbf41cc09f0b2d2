"""Small classifiers as the exports take them."""

import flax.linen as nn
import jax
import numpy as np
from forms import filled

from jaxtl import models
from jaxtl.deploy.export.program import Program, Request
from jaxtl.deploy.export.provenance import Provenance
from jaxtl.deploy.export.verification import draw_views
from jaxtl.models.base import GroupedModel, classify
from jaxtl.preprocessing import Pixels

CLASSES = ("aster", "bluebell", "crocus", "daisy", "elder")
VIT = "vit_s16:patch=8,width=32,depth=2,heads=2,image_size=32"
RESNET = "resnet18:stages=1-1,width=8"


def pixels(size):
    return Pixels(size, size + 8, (0.4, 0.5, 0.6), (0.2, 0.25, 0.3), "bicubic")


def program(name=VIT, size=32, channels=3, **more):
    """A model whose variables keep the size of what goes through it."""
    module = models.build(name, num_classes=len(CLASSES), image_size=size)
    variables = filled(module, np.zeros((1, size, size, channels), np.float32))
    return Program(name, module, variables, pixels(size), CLASSES, **more)


def request(program, **more):
    size, _, channels = program.shape
    notes = {"pixels": program.pixels.to_json(), "epsilon": program.epsilon}
    origin = Provenance("mine", 3, program.name, format=more.pop("format", ""), notes=notes)
    return Request(origin, draw_views(size, channels, 5), **more)


class Odd(GroupedModel):
    """A network with an operation that no other program knows: a call of Python."""

    num_classes: int = 5
    image_size: int = 8

    def groups(self):
        return (("stem", "stem"), ("body", "body"), ("head", "head"))

    @property
    def first_layer(self):
        return "params/stem/kernel"

    def run_group(self, x, name, train):
        if name == "stem":
            return nn.Conv(4, (3, 3), use_bias=False, name="stem")(x)
        return Body(name="body")(x) if name == "body" else classify(x.mean((1, 2)), self.num_classes, train=train)


class Body(nn.Module):
    @nn.compact
    def __call__(self, x):
        x = nn.Dense(4, use_bias=False, name="fc")(x)
        return jax.pure_callback(np.tanh, jax.ShapeDtypeStruct(x.shape, x.dtype), x)


def odd():
    module = Odd()
    return Program("odd", module, filled(module, np.zeros((1, 8, 8, 3), np.float32)), pixels(8), CLASSES)
