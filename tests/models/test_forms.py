"""Whole models in the forms of a GPU: logits, gradients and running statistics are those of the plain operations."""

import jax
import jax.numpy as jnp
import pytest
from forms import assert_same_form, filled, normal, run

from jaxtl import models
from jaxtl.parallel.backend import compiling_for

VIT = "vit_s16:patch=8,width=32,depth=2,heads=2"
RESNET = "resnet50:stages=1-1,width=8"
KERAS = "resnet50v2:stages=1-1,width=8"


@pytest.mark.parametrize(
    ("name", "size"),
    [
        pytest.param(VIT, 32, marks=pytest.mark.gpu),
        pytest.param(VIT + ",layer_scale=true,qkv_bias=false,pool=mean,gelu=tanh", 32, marks=pytest.mark.slow),
        pytest.param(VIT + ",registers=2", 32, marks=pytest.mark.slow),
        # Two others have its parts.
        pytest.param(RESNET, 64, marks=[pytest.mark.gpu, pytest.mark.slow]),
        # 33 pixels do not come in blocks of two.
        pytest.param(RESNET, 33, marks=pytest.mark.slow),
        pytest.param(
            RESNET + ",deep_stem=true,average_shortcut=true,stride_first=true,conv_bias=true",
            32,
            marks=pytest.mark.slow,
        ),
        pytest.param("resnet18:stages=1-1,width=8,remat=true", 32, marks=pytest.mark.slow),
        pytest.param(KERAS, 32, marks=[pytest.mark.gpu, pytest.mark.slow]),
        pytest.param("bit_r50x1:stages=1-1,width=32", 32, marks=pytest.mark.slow),
        pytest.param("resnet20_cifar:blocks=1", 32, marks=pytest.mark.slow),
        pytest.param("swin_t:blocks=2-1,heads=1-2,width=8,window=4", 24, marks=[pytest.mark.gpu, pytest.mark.slow]),
        pytest.param("maxvit_t:blocks=1-1,width=32,stem_width=8", 32, marks=[pytest.mark.gpu, pytest.mark.slow]),
        pytest.param(VIT + ",pre_norm=true,gelu=quick", 32, marks=pytest.mark.slow),
    ],
)
def test_a_model_trains_on_a_gpu_as_in_its_plain_form(name, size):
    remat = name.endswith(",remat=true")
    model = models.build(
        name.removesuffix(",remat=true"), num_classes=3, image_size=size, options=models.ModelOptions(remat=remat)
    )
    images = normal(4, size, size, 3)
    variables = filled(model, images)
    params, rest = variables["params"], {key: value for key, value in variables.items() if key != "params"}
    function = run(model, images, train=True, rngs={"dropout": jax.random.key(0)})
    assert_same_form(lambda params: function(params, rest), params)


@pytest.mark.parametrize("name", [VIT, RESNET, KERAS])
def test_the_variables_are_the_same_on_every_backend(name):
    model = models.build(name, num_classes=3, image_size=32)
    shapes = []
    for backend in ("cpu", "gpu", "tpu", "none"):
        with compiling_for(backend):
            shapes.append(jax.eval_shape(lambda: model.init(jax.random.key(0), jnp.ones((1, 32, 32, 3)))))
    assert shapes.count(shapes[0]) == 4
