import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxtl import models
from jaxtl.compress.quantization import FORMS, bits_of, pack, quantize, rounded_input, rounded_kernel, unpack
from jaxtl.models.base import GroupedModel
from jaxtl.trees import flatten

VIT = "vit_petals:depth=2,width=16,heads=2,patch=8,image_size=16"
RESNET = "resnet20_cifar:blocks=1,width=5,image_size=16"


def build(name, form="") -> GroupedModel:
    return models.build(models.with_fields(name, quantized=form), num_classes=3)


def drawn(module):
    variables = jax.jit(lambda: module.init(jax.random.key(0), jnp.zeros((1, 16, 16, 3))))()
    rng = np.random.default_rng(0)
    return jax.tree.map(lambda x: jnp.asarray(x + 0.1 * np.abs(rng.normal(size=x.shape)), jnp.float32), variables)


def test_numbers_of_a_kernel_by_hand():
    values, scale = quantize(jnp.array([[1.27, 0.0, -0.7], [-0.5, 0.0, 0.1]]), 8)
    assert values.tolist() == [[127, 0, -127], [-50, 0, 18]]
    np.testing.assert_allclose(scale, [[0.01, 1.0, 0.7 / 127]], rtol=1e-6)
    values, scale = quantize(jnp.array([[0.7, 2.1], [-0.24, -0.4]]), 4)
    assert values.tolist() == [[7, 7], [-2, -1]]


@pytest.mark.parametrize("bits", [4, 8])
def test_no_weight_moves_further_than_half_a_step_and_rounding_twice_is_rounding_once(bits):
    kernel = jax.random.normal(jax.random.key(bits), (3, 3, 8, 20))
    rounded = rounded_kernel(kernel, bits)
    step = jnp.abs(kernel).max((0, 1, 2), keepdims=True) / (2 ** (bits - 1) - 1)
    assert (jnp.abs(rounded - kernel) <= 0.5001 * step).all()
    np.testing.assert_allclose(rounded_kernel(rounded, bits), rounded, rtol=1e-6)
    assert ((rounded == 0) | (kernel != 0)).all()


def test_gradients_pass_straight_through_but_not_outside_a_range():
    kernel = jax.random.normal(jax.random.key(0), (4, 3))
    slope = jax.grad(lambda kernel: (rounded_kernel(kernel, 4) ** 2).sum())(kernel)
    np.testing.assert_allclose(slope, 2 * rounded_kernel(kernel, 4), rtol=1e-6)
    x, reach = jnp.array([0.3, -5.0, 1.0]), jnp.float32(1.27)
    np.testing.assert_allclose(rounded_input(x, reach), [0.3, -1.27, 1.0], atol=1e-6)
    assert jax.grad(lambda x: rounded_input(x, reach).sum())(x).tolist() == [1.0, 0.0, 1.0]
    assert rounded_input(x, jnp.float32(0)).tolist() == x.tolist()


def test_which_kernels_have_which_bits():
    kept = ("params/head/kernel",)
    paths = ("params/a/kernel", "params/a/bias", "params/head/kernel", "batch_stats/bn/kernel")
    assert [bits_of(path, "int4", kept) for path in paths] == [4, 0, 8, 0]
    assert [bits_of(path, "w8a8", kept) for path in paths] == [8, 0, 8, 0]


@pytest.mark.parametrize("name", [VIT, RESNET])
@pytest.mark.parametrize("form", FORMS)
def test_packed_kernels_take_their_bits_and_compute_what_rounded_ones_do(name, form):
    module = build(name, form)
    variables = drawn(module)
    packed = pack(variables, form, module.precise_kernels())
    floats, numbers = flatten(variables), flatten(packed)
    kernels = [path for path in floats if path.endswith("/kernel")]
    assert not set(kernels) & set(numbers)
    for path in kernels:
        numbered = numbers[f"quantized/{path.removeprefix('params/')}/values"]
        eight = form != "int4" or path in module.precise_kernels()
        *lead, units = floats[path].shape
        assert numbered.nbytes == np.prod(lead) * (units if eight else (units + 1) // 2)
    unpacked = flatten(unpack(packed))
    assert {path: leaf.shape for path, leaf in unpacked.items()} == {path: leaf.shape for path, leaf in floats.items()}
    images = jax.random.normal(jax.random.key(1), (2, 16, 16, 3))
    apply = jax.jit(lambda tree: module.apply(tree, images, train=False))
    np.testing.assert_allclose(apply(packed), apply(variables), rtol=1e-4, atol=1e-5)
    # They are not the float network's.
    plain = build(name).apply({key: variables[key] for key in variables if key != "ranges"}, images, train=False)
    assert not np.allclose(apply(variables), plain, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", [VIT, RESNET])
def test_ranges_are_measured_where_they_are_mutable_and_only_there(name):
    module = build(name, "w8a8")
    variables = jax.jit(lambda: module.init(jax.random.key(0), jnp.zeros((1, 16, 16, 3))))()
    assert set(jax.tree.leaves(jax.tree.map(float, variables["ranges"]))) == {0.0}
    kernels = [path for path in flatten(variables["params"]) if path.endswith("/kernel")]
    assert {f"{path.removesuffix('/kernel')}/input" for path in kernels} == set(flatten(variables["ranges"]))
    images = jax.random.normal(jax.random.key(1), (4, 16, 16, 3))
    variables = {**drawn(module), "ranges": variables["ranges"]}
    _, found = module.apply(variables, images, train=False, mutable=["ranges"])
    first = flatten(found["ranges"])[module.first_layer.removeprefix("params/").removesuffix("kernel") + "input"]
    assert float(first) == float(jnp.abs(images).max())
    # Eight bits are close to none: a range that fits changes logits by a few hundredths of their size.
    measured = {**variables, **found}
    plain = build(name).apply({key: measured[key] for key in measured if key != "ranges"}, images, train=False)
    rounded = module.apply(measured, images, train=False)
    assert 0 < float(jnp.abs(rounded - plain).max()) < 0.1 * float(jnp.abs(plain).max())


def test_an_unknown_form_is_refused_with_those_there_are():
    with pytest.raises(Exception, match="quantized 'int3' is none of int8, int4, w8a8"):
        build(VIT, "int3")
