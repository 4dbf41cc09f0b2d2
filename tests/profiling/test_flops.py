"""FLOP are counted from the jaxpr: worked out by hand here, and held to XLA's own count on a CPU."""

import itertools
from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
import pytest
from jax import lax

from jaxtl import models
from jaxtl.finetune import param_groups as groups_lib
from jaxtl.parallel.backend import compiling_for
from jaxtl.profiling.cost import computed_gflop, model_gflop, reference_cost
from jaxtl.profiling.flops import count_flops
from jaxtl.train.optimizer import OptimizerOptions, make_optimizer
from jaxtl.train.state import TrainState
from jaxtl.train.step import train_step


def shape(*sides, dtype=jnp.float32):
    return jax.ShapeDtypeStruct(sides, dtype)


def by_xla(function, *shapes):
    return jax.jit(function).lower(*shapes).cost_analysis()["flops"]


def multiply(x, kernel):
    return x @ kernel


# 2 operations for each of 4 x 16 results and 8 channels.
ONE, OPERANDS = 2 * 4 * 16 * 8, (shape(4, 8), shape(8, 16))


@pytest.mark.parametrize(
    ("function", "shapes", "flop"),
    [
        (multiply, OPERANDS, 1024),
        (lambda x, kernel: jax.nn.gelu(x @ kernel + 1.0), OPERANDS, 1024),
        (jax.grad(lambda x, kernel: (x @ kernel).sum(), (0, 1)), OPERANDS, 2 * 1024),
        (jax.value_and_grad(lambda x, kernel: ((x @ kernel) ** 2).sum(), 1), OPERANDS, 2 * 1024),
        (partial(jnp.einsum, "bqhd,bkhd->bhqk"), (shape(3, 5, 2, 8), shape(3, 7, 2, 8)), 2 * 3 * 2 * 5 * 7 * 8),
        (lambda x, y: x @ y, (shape(9), shape(9)), 18),
        (lambda x, y: x @ y, (shape(0, 9), shape(9, 4)), 0),
        (lambda x: jax.nn.softmax(x), (shape(4, 8),), 0),
    ],
)
def test_matrix_products_count_twice_their_products_and_nothing_else_counts(function, shapes, flop):
    assert count_flops(function, *shapes) == flop


def test_the_number_format_makes_no_difference():
    halves = [shape(*x.shape, dtype=jnp.bfloat16) for x in OPERANDS]
    assert count_flops(multiply, *halves) == count_flops(multiply, *OPERANDS) == ONE


def convolve(x, kernel, **options):
    return lax.conv_general_dilated(x, kernel, dimension_numbers=("NHWC", "HWIO", "NHWC"), **options)


def gradients(function):
    """The gradients by the input alone, and by the kernel alone."""
    return [jax.grad(lambda *operands: function(*operands).sum(), number) for number in (0, 1)]


def met(size, taps, stride, low, high):
    """Counts the pairs of a place and a tap that meet an element, one by one."""
    places = (low + size + high - taps) // stride + 1
    return sum(0 <= place * stride + tap - low < size for place, tap in itertools.product(range(places), range(taps)))


def test_a_strided_padded_convolution_and_both_its_gradients_count_the_products_that_meet_an_element():
    # Along 5 rows, from one before the first: taps meet 2, 3 and 2 of them. Along 6 columns: 2, 3 and 3.
    assert (met(5, 3, 2, 1, 1), met(6, 3, 2, 1, 1)) == (7, 8)
    forward = partial(convolve, window_strides=(2, 2), padding=((1, 1), (1, 1)))
    shapes = (shape(2, 5, 6, 3), shape(3, 3, 3, 4))
    assert {count_flops(function, *shapes) for function in (forward, *gradients(forward))} == {2 * 2 * 7 * 8 * 3 * 4}


@pytest.mark.parametrize("groups", [1, 3])
@pytest.mark.parametrize(
    "options",
    [
        {"window_strides": (1, 1), "padding": "VALID"},
        {"window_strides": (2, 3), "padding": "SAME"},
        {"window_strides": (4, 4), "padding": ((2, 1), (0, 3))},
        {"window_strides": (1, 2), "padding": "SAME", "rhs_dilation": (2, 1)},
        {"window_strides": (1, 1), "padding": ((3, 2), (0, -1)), "lhs_dilation": (2, 3)},
        {"window_strides": (2, 2), "padding": ((-1, 1), (1, -2))},
    ],
)
def test_convolutions_and_their_gradients_count_as_in_xla(options, groups):
    function = partial(convolve, feature_group_count=groups, **options)
    shapes = (shape(4, 13, 11, 6), shape(3, 5, 6 // groups, 12))
    counts = [count_flops(one, *shapes) for one in (function, *gradients(function))]
    assert counts == [by_xla(one, *shapes) for one in (function, *gradients(function))]
    assert counts[0] == counts[1] == counts[2] > 0


def test_groups_divide_the_products():
    shapes = (shape(2, 8, 8, 6), shape(3, 3, 6, 12))
    options = {"window_strides": (1, 1), "padding": "SAME"}
    whole = count_flops(partial(convolve, **options), *shapes)
    assert whole == 2 * 2 * met(8, 3, 1, 1, 1) ** 2 * 6 * 12
    depthwise = count_flops(partial(convolve, feature_group_count=6, **options), shapes[0], shape(3, 3, 1, 12))
    assert depthwise == whole // 6
    function = partial(convolve, batch_group_count=2, **options)
    assert count_flops(function, *shapes) == by_xla(function, *shapes) == whole // 2


@jax.custom_vjp
def both(x, kernel):
    return x @ kernel, kernel.T @ x.T


both.defvjp(lambda x, kernel: (both(x, kernel), (x, kernel)), lambda saved, grads: (grads[0] @ saved[1].T, saved[1]))


@jax.custom_jvp
def tripled(x, kernel):
    return 3 * (x @ kernel)


tripled.defjvp(lambda primals, tangents: (tripled(*primals), tripled(tangents[0], primals[1])))


def scanned(x, kernel, rounds=5, keep=True):
    """Multiplies `rounds` times; beside it runs another carry of as many products."""

    def body(carry, _):
        return (carry[0] @ kernel, carry[1] @ kernel), None

    out = lax.scan(body, (x, x), None, length=rounds)[0]
    return out if keep else out[0]


SQUARE = (shape(4, 8), shape(8, 8))
PRODUCT = 2 * 4 * 8 * 8


@pytest.mark.parametrize(
    ("function", "products"),
    [
        (jax.jit(multiply), 1),
        (jax.jit(lambda x, kernel: jax.jit(multiply)(x, kernel) @ kernel), 2),
        (scanned, 10),
        (lambda x, kernel: jnp.stack([scanned(x, kernel, 3)[0] for _ in range(2)]), 6),
        (lambda x, kernel: lax.fori_loop(0, 3, lambda _, y: y @ kernel, x), 3),
        # Of a cond the most expensive branch; of a while one round.
        (lambda x, k: lax.cond(x[0, 0] > 0, lambda: x @ k @ k, lambda: x @ k), 2),
        (lambda x, k: lax.while_loop(lambda y: y[0, 0] < 9, lambda y: y @ k, x), 1),
        (both, 2),
        (tripled, 1),
        (jax.checkpoint(multiply), 1),
    ],
)
def test_what_lies_within_an_equation_counts(function, products):
    assert count_flops(function, *SQUARE) == products * PRODUCT


@pytest.mark.parametrize(
    ("function", "products"),
    [
        (lambda x, kernel: (x @ kernel, x @ kernel.T)[0], 1),
        (lambda x, kernel: jax.jit(lambda: (x @ kernel, x @ kernel.T))()[0], 1),
        (partial(scanned, keep=False), 5),
        (lambda x, kernel: lax.cond(x[0, 0] > 0, lambda: (x @ kernel, x), lambda: (x, x @ kernel))[1], 1),
        (lambda x, k: lax.cond(x[0, 0] > 0, lambda: (x @ k @ k, x), lambda: (x, x @ k))[1], 1),
        (lambda x, kernel: both(x, kernel)[0], 1),
        (lambda x, kernel: jax.checkpoint(lambda: (x @ kernel, x @ kernel.T))()[1], 1),
        # The value of what is differentiated, which its gradient does not ask for.
        (jax.grad(lambda x, kernel: (x @ kernel).sum()), 1),
        (jax.grad(lambda x, kernel: both(x, kernel)[0].sum()), 1),
    ],
)
def test_results_that_nothing_reads_cost_nothing_however_deep_they_lie(function, products):
    assert count_flops(function, *SQUARE) == products * PRODUCT


def test_what_remat_computes_again_counts_again():
    def two(x, kernel):
        return (jnp.tanh(x @ kernel) @ kernel).sum()

    # Forward for the value 2, backward 2 by the kernel and 1 by the hidden layer; again the first, not the second.
    assert count_flops(jax.value_and_grad(two, 1), *SQUARE) == 5 * PRODUCT
    assert count_flops(jax.value_and_grad(jax.checkpoint(two), 1), *SQUARE) == 6 * PRODUCT


def test_products_that_cannot_be_seen_are_an_error():
    def groups_of_rows(x, kernel):
        return lax.ragged_dot(x, kernel[None], jnp.full(1, 4, jnp.int32))

    with pytest.raises(NotImplementedError, match="'ragged_dot_general' cannot be counted: use an operation's plain"):
        count_flops(groups_of_rows, *SQUARE)


def prepare(name, unfreeze="all", size=32, classes=3, rows=4, dtype=jnp.float32, **options):
    """A step of AdamW and the shapes that it takes."""
    model = models.build(
        name, num_classes=classes, image_size=size, options=models.ModelOptions(dtype=dtype, **options)
    )
    variables = jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, size, size, 3)))
    assignment = groups_lib.assign(variables["params"], model.groups())
    labels = groups_lib.select(assignment, unfreeze)
    optimizer = make_optimizer(labels, OptimizerOptions(name="adamw", learning_rate=1e-3))
    state = jax.eval_shape(lambda tree: TrainState.create(tree, optimizer, jax.random.key(1)), variables)
    batch = {"image": shape(rows, size, size, 3), "label": shape(rows, dtype=jnp.int32)}
    step = partial(train_step, model=model, optimizer=optimizer, groups=labels)
    return step, state, batch, partial(reference_cost, model, variables, assignment, batch["image"])


# A ViT of width 32 with 4 x 4 tokens and a class token, which alone asks in the last block: for each image.
WIDTH, TOKENS = 32, 17
EMBED = 2 * 16 * 8 * 8 * 3 * WIDTH
BLOCK = 2 * TOKENS * (3 * WIDTH**2 + 2 * TOKENS * WIDTH + WIDTH**2 + 8 * WIDTH**2)
LAST = 2 * (2 * TOKENS * WIDTH**2 + WIDTH**2 + 2 * TOKENS * WIDTH + WIDTH**2 + 8 * WIDTH**2)
HEAD = 2 * WIDTH * 3
SMALL = f"vit_s16:patch=8,width={WIDTH},depth=3,heads=2"
# A ResNet of two blocks: the stem to 16 x 16 pixels, pooled to 8 x 8; the second block has 4 x 4.
STEM = 2 * met(32, 7, 2, 3, 3) ** 2 * 3 * 32
BLOCKS = (
    2 * 32**2 * (2 * met(8, 3, 1, 1, 1) ** 2 + 2 * met(8, 3, 2, 1, 1) ** 2 + 4 * met(4, 3, 1, 1, 1) ** 2 + 2 * 4**2)
)
RESNET = "resnet18:stages=1-1,width=32"
FULL = {
    SMALL: 4 * (3 * (EMBED + 2 * BLOCK + LAST + HEAD) - EMBED),
    RESNET: 4 * (3 * (STEM + BLOCKS + 2 * 64 * 3) - STEM),
}


@pytest.mark.parametrize(
    ("unfreeze", "backward"),
    [
        ("all", EMBED + 2 * (2 * BLOCK + LAST + HEAD)),
        # Down to the normalisation at the input of the last block, which trains too.
        ("1", 2 * (LAST + HEAD)),
        pytest.param("head", HEAD, marks=pytest.mark.slow),
    ],
)
def test_a_step_takes_the_forward_pass_and_the_gradients_of_what_trains(unfreeze, backward):
    step, state, batch, reference = prepare(SMALL, unfreeze)
    forward = EMBED + 2 * BLOCK + LAST + HEAD
    assert model_gflop(step, state, batch) == 4 * (forward + backward) / 1e9
    # All but the embedding twice again backwards: images have no gradient.
    assert reference() == {"forward_gflop": 4 * forward / 1e9, "full_gflop": 4 * (3 * forward - EMBED) / 1e9}


@pytest.mark.slow
def test_vit_ti_at_batch_8():
    embed = 2 * 196 * 768 * 192
    block = 2 * 197 * (12 * 192**2 + 2 * 197 * 192)
    last = 2 * (2 * 197 * 192**2 + 10 * 192**2 + 2 * 197 * 192)
    forward = 8 * (embed + 11 * block + last + 2 * 192 * 1000)
    assert forward == 18_665_644_032
    *_, reference = prepare("vit_ti16", size=224, classes=1000, rows=8)
    cost = reference()
    assert cost == {"forward_gflop": 18.665644032, "full_gflop": (3 * forward - 8 * embed) / 1e9}
    assert cost["full_gflop"] / cost["forward_gflop"] == pytest.approx(2.975, abs=1e-3)


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["cpu", "gpu", "tpu"])
@pytest.mark.parametrize("name", FULL)
def test_the_count_does_not_depend_on_the_backend(name, backend):
    # A CPU has a convolution with fewer products, and the others a function of their own for attention.
    step, state, batch, _ = prepare(name, dtype=jnp.bfloat16 if backend == "gpu" else jnp.float32)
    with compiling_for(backend):
        # As another's compiler was asked for it before: what JAX keeps of that must not be counted.
        jax.make_jaxpr(step)(state, batch)
        assert count_flops(step, state, batch) == FULL[name]
        assert model_gflop(step, state, batch) == FULL[name] / 1e9
    assert count_flops(step, state, batch) == FULL[name]


@pytest.mark.slow
def test_remat_counts_where_it_is_computed_and_not_where_the_model_asks():
    plain, again = (prepare(SMALL, remat=remat)[:3] for remat in (False, True))
    assert model_gflop(*again) == model_gflop(*plain) == computed_gflop(*plain)
    assert 1.1 < computed_gflop(*again) / computed_gflop(*plain) < 4 / 3


class Mean(nn.Module):
    """Multiplies nothing."""

    @nn.compact
    def __call__(self, x, train=False):
        return x.mean((1, 2)) + self.param("bias", nn.initializers.zeros, (3,))[None]


def test_a_count_of_nothing_is_an_error():
    image = shape(4, 8, 8, 3)
    variables = jax.eval_shape(Mean().init, jax.random.key(0), image)
    with pytest.raises(ValueError, match="0 FLOP were counted"):
        reference_cost(Mean(), variables, {"bias": "head"}, image)
