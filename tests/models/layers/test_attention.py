"""The forms of attention: the rule that chooses one, how one gives way to the next, and that all give the same."""

import itertools
import warnings
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from forms import assert_close, assert_same_form, differentiate, filled, normal, run

from jaxtl.models.layers import attention
from jaxtl.models.layers.attention import QueryKeyValue, attend, choose_attention, padded_tokens, resolve
from jaxtl.models.transformer import ViT
from jaxtl.parallel.backend import compiling_for

DTYPES = (jnp.float32, jnp.float16, jnp.bfloat16)
CAPABILITIES = ("", "7.5", "8.0", "9.0", "gfx942")
WIDTHS = (64, 80, 129, 256)
TOKENS = (197, 198)

REFUSAL = "Unsupported sequence length Q 197, KV 197."


@pytest.fixture(autouse=True)
def forgotten():
    """What was refused, and said, before is asked and said again."""
    attention.refused.cache_clear()
    attention._say_once.cache_clear()
    yield
    attention.refused.cache_clear()
    attention._say_once.cache_clear()


# As cuDNN's form does on a CPU, and on a GPU in float32.
gives_way = pytest.mark.filterwarnings("ignore:attention 'cudnn' is refused")


# Heads of which widths cuDNN attends to on a GPU.
CUDNN = {
    ("float16", "8.0"): {64, 80},
    ("float16", "9.0"): {64, 80, 256},
    ("bfloat16", "8.0"): {64, 80},
    ("bfloat16", "9.0"): {64, 80, 256},
}


@pytest.mark.parametrize("capability", CAPABILITIES)
@pytest.mark.parametrize("dtype", DTYPES, ids=lambda dtype: dtype.__name__)
def test_the_form_of_attention_on_a_gpu(dtype, capability):
    def form(width, queries, keys):
        return choose_attention("gpu", dtype, head_width=width, queries=queries, keys=keys, capability=capability)

    widths = CUDNN.get((dtype.__name__, capability), set())
    for width, tokens in itertools.product(WIDTHS, TOKENS):
        assert form(width, tokens, tokens) == ("cudnn" if width in widths else "xla")
        # The class token alone, or that and the distillation token, asks in the last block.
        assert form(width, 1, tokens) == form(width, 2, tokens) == "xla"


@pytest.mark.parametrize(("backend", "form"), [("cpu", "plain"), ("none", "plain"), ("tpu", "xla")])
def test_the_form_of_attention_elsewhere(backend, form):
    for dtype, capability, width, keys in itertools.product(DTYPES, CAPABILITIES, WIDTHS, TOKENS):
        for queries in (1, 2, keys):
            shape = {"head_width": width, "queries": queries, "keys": keys}
            assert choose_attention(backend, dtype, capability=capability, **shape) == form


@pytest.mark.parametrize(
    ("width", "capability", "form"),
    [
        (64, "8.6", "cudnn"),
        (128, "8.9", "cudnn"),
        (160, "8.9", "xla"),
        (64, "10.0", "cudnn"),
        (256, "12.0", "cudnn"),
        (264, "9.0", "xla"),
        (36, "9.0", "xla"),
    ],
)
def test_more_gpus_and_widths(width, capability, form):
    shape = {"head_width": width, "queries": 197, "keys": 197}
    assert choose_attention("gpu", jnp.bfloat16, capability=capability, **shape) == form


@pytest.mark.parametrize(
    ("form", "tokens", "padded"),
    [("cudnn", 197, 198), ("cudnn", 198, 198), ("cudnn", 1, 2), ("xla", 197, 197), ("plain", 197, 197)],
)
def test_cudnn_gets_an_even_number_of_tokens(form, tokens, padded):
    assert padded_tokens(form, tokens) == padded


@pytest.mark.parametrize(
    ("form", "backend", "capability", "resolved"),
    [
        ("auto", "gpu", "9.0", "cudnn"),
        ("auto", "gpu", "7.5", "xla"),
        ("auto", "cpu", "9.0", "plain"),
        ("auto", "tpu", "", "xla"),
        ("xla", "gpu", "9.0", "xla"),
        ("cudnn", "cpu", "", "cudnn"),
        ("cudnn", "none", "9.0", "plain"),
    ],
)
def test_a_form_that_is_named_is_taken_and_auto_is_resolved(monkeypatch, form, backend, capability, resolved):
    monkeypatch.setattr(attention, "capability", lambda: capability)
    with compiling_for(backend):
        assert resolve(form, jnp.bfloat16, head_width=64, tokens=197) == resolved


def heads(*, tokens=7, rows=2, width=8):
    return normal(3, rows, tokens, 4, width)


@pytest.mark.parametrize("form", ["auto", "xla", "plain"])
def test_attention_is_that_of_torch(form):
    import torch  # Here, as a GPU runs other tests of this file, maybe without it.

    query, key, value = heads()
    tensors = (torch.from_numpy(x).transpose(1, 2) for x in (query, key, value))
    expected = torch.nn.functional.scaled_dot_product_attention(*tensors).transpose(1, 2)
    np.testing.assert_allclose(attend(query, key, value, form=form), expected, atol=1e-5)


@pytest.mark.gpu
@pytest.mark.parametrize("form", ["xla", "plain"])
def test_padding_gets_no_weight_and_no_gradient(form):
    query, key, value = heads(tokens=8)
    # Of what the last token holds nothing may be seen.
    key[:, 7:], value[:, 7:] = 50, 1000

    def function(*operands):
        return attend(*operands, form=form, real=7)[:, :7], None

    padded = differentiate(function, query, key, value, backend=None)
    real = (x[:, :7] for x in (query, key, value))
    plain = differentiate(lambda *xs: (attend(*xs, form=form), None), *real, backend=None)
    assert_close(padded["output"], plain["output"])
    assert_close([x[:, :7] for x in padded["gradients"]], list(plain["gradients"]))
    assert all(np.all(x[:, 7:] == 0) for x in padded["gradients"])


@pytest.mark.parametrize("queries", [1, 2, 5])
def test_a_gpu_multiplies_for_queries_keys_and_values_apart(queries):
    x, kernel, bias = normal(2, 5, 8), normal(8, 24, seed=1), normal(24, seed=2)

    def function(x, kernel, bias):
        parts = QueryKeyValue().apply({"params": {"kernel": kernel, "bias": bias}}, x, queries)
        return jnp.concatenate(parts, axis=1), None

    assert_same_form(function, x, kernel, bias)

    def products(backend):
        with compiling_for(backend):
            return str(jax.make_jaxpr(lambda *xs: function(*xs))(x, kernel, bias)).count("dot_general")

    assert products("gpu") == 3
    assert products("none") == (1 if queries == 5 else 2)


# What cuDNN would do, as far as JAX lets it.


def stand_in(when, function=jax.nn.dot_product_attention):
    """JAX's attention that refuses cuDNN for odd lengths, always or only where it is differentiated."""

    @jax.custom_vjp
    def cudnn(query, key, value):
        return function(query, key, value, implementation="xla")

    def forward(query, key, value):
        raise NotImplementedError(REFUSAL)

    cudnn.defvjp(forward, lambda saved, gradient: gradient)

    def attention(query, key, value, *, implementation, **options):
        if implementation == "cudnn" and when == "always":
            raise NotImplementedError(REFUSAL)
        if implementation == "cudnn":
            return cudnn(query, key, value)
        return function(query, key, value, implementation=implementation, **options)

    return attention


def refusals(record):
    return [str(warning.message) for warning in record]


def chain(wrap, form):
    """Attention twice, as two blocks have it: one after the other, each computed again, or as a loop."""

    def once(x):
        return attend(x, x, x, form=form)

    if wrap == "scan":
        return lambda x: jax.lax.scan(lambda x, _: (jax.checkpoint(once)(x), None), x, None, length=2)[0]
    block = jax.checkpoint(once) if wrap == "checkpoint" else once
    return lambda x: block(block(x))


@pytest.mark.parametrize("when", ["always", "differentiated"])
@pytest.mark.parametrize("wrap", ["", "checkpoint", pytest.param("scan", marks=pytest.mark.slow)])
def test_a_form_that_jax_refuses_gives_way_and_says_so_once(monkeypatch, wrap, when):
    (x,) = normal(1, 2, 197, 2, 8)
    monkeypatch.setattr(jax.nn, "dot_product_attention", stand_in(when))

    def trained(form):
        return differentiate(lambda x: (chain(wrap, form)(x), None), x, backend="cpu")

    with warnings.catch_warnings(record=True) as record:
        warnings.simplefilter("always")
        found, again = trained("cudnn"), trained("cudnn")
    assert refusals(record) == [
        f"attention 'cudnn' is refused for 197 tokens of float32: {REFUSAL}; 'xla' is used instead"
    ]
    assert_close(found, trained("plain"))
    assert_close(again, found)


def test_every_form_that_is_refused_is_named(monkeypatch):
    def refuse(*_, implementation, **__):
        raise ValueError(f"no {implementation}\nand more")

    monkeypatch.setattr(jax.nn, "dot_product_attention", refuse)
    query, key, value = heads()
    with pytest.warns(UserWarning, match="refused") as record:
        found = attend(query, key, value, form="cudnn")
    assert refusals(record) == [
        "attention 'xla' is refused for 7 tokens of float32: no xla; 'plain' is used instead",
        "attention 'cudnn' is refused for 7 tokens of float32: no cudnn; 'plain' is used instead",
    ]
    np.testing.assert_array_equal(found, attend(query, key, value, form="plain"))


def test_where_operations_are_plain_a_form_that_is_named_is_too(monkeypatch):
    query, key, value = heads()
    expected = attend(query, key, value, form="plain")
    monkeypatch.delattr(jax.nn, "dot_product_attention")
    with compiling_for("none"):
        np.testing.assert_array_equal(attend(query, key, value, form="cudnn"), expected)


def test_other_errors_are_not_hidden(monkeypatch):
    def broken(*_, **__):
        raise KeyError("a bug")

    monkeypatch.setattr(jax.nn, "dot_product_attention", broken)
    with pytest.raises(KeyError, match="a bug"):
        attend(*heads(), form="xla")


# Of small models with cuDNN's form, whose tokens are padded, and which on a CPU gives way to JAX's own.

MODELS = {
    "197 tokens": {"image_size": 224},
    "198 tokens": {"image_size": 224, "registers": 1},
    "199 tokens, two that ask": {"image_size": 224, "registers": 1, "distilled": True, "teacher_head": True},
    "257 tokens, mean": {"image_size": 256, "pool": "mean", "norm_after_pool": True},
    "577 tokens, cls+mean": {"image_size": 384, "pool": "cls+mean", "layer_scale": True, "depth": 1},
    "scan": {"image_size": 224, "scan": True, "depth": 3},
    "remat": {"image_size": 224, "remat": True, "pool": "mean"},
    "scan and remat": {"image_size": 224, "scan": True, "remat": True, "depth": 3},
}
ON_GPU = ["197 tokens", "199 tokens, two that ask", "257 tokens, mean", "scan and remat"]
QUICK = ["197 tokens"]


def vit(form, **options):
    return ViT(num_classes=3, **{"patch": 16, "width": 16, "heads": 2, "depth": 2, "attention": form, **options})


@gives_way
@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=[pytest.mark.gpu] * (name in ON_GPU) + [pytest.mark.slow] * (name not in QUICK))
        for name in MODELS
    ],
)
def test_padded_tokens_change_neither_logits_nor_gradients(name):
    options = MODELS[name]
    images = normal(2, options["image_size"], options["image_size"], 3)
    padded, plain = vit("cudnn", **options), vit("plain", **options)
    variables = filled(plain, images)
    assert padded.tokens == int(name[:3]) if name[0].isdigit() else 197
    found, expected = (
        differentiate(run(model, images, train=True), variables["params"], {}, backend=backend)
        for model, backend in ((padded, "gpu"), (plain, "none"))
    )
    assert_close(found["output"], expected["output"])
    assert_close(found["gradients"][0], expected["gradients"][0])


@gives_way
def test_the_blocks_carry_the_padding():
    model = vit("cudnn", image_size=224)
    images = normal(1, 224, 224, 3)
    variables = filled(vit("plain", image_size=224), images)

    def shapes(model):
        seen = jax.eval_shape(partial(model.apply, capture_intermediates=True), variables, images)[1]
        return [seen["intermediates"][name]["__call__"][0].shape for name in ("block0", "block1")]

    # The last block gives its class token alone.
    assert shapes(model) == [(1, 198, 16), (1, 1, 16)]
    assert shapes(vit("plain", image_size=224)) == [(1, 197, 16), (1, 1, 16)]


@gives_way
@pytest.mark.gpu
@pytest.mark.parametrize(
    "options", [{}, pytest.param({"scan": True, "depth": 3}, marks=pytest.mark.slow)], ids=["loose", "scan"]
)
def test_what_a_frozen_prefix_returns_has_no_padding_and_gives_the_same_logits(options):
    images = normal(2, 224, 224, 3)
    model, plain = (vit(form, image_size=224, **options) for form in ("cudnn", "plain"))
    variables = filled(plain, images)

    @partial(jax.jit, static_argnums=0)
    def cut(model):
        between = model.apply(variables, images, stop="block0")
        return between, model.apply(variables, between, start="block1"), model.apply(variables, images)

    with compiling_for("gpu"):
        found = jax.device_get(cut(model))
    with compiling_for("none"):
        expected = jax.device_get(cut(plain))
    assert found[0].shape == (2, 197, 16)
    assert_close(found, expected)
    assert_close(found[1], expected[2])
