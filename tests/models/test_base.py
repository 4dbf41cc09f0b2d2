"""Groups: they cover every leaf once, and running them one after another is running the model."""

import dataclasses
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxtl import models
from jaxtl.finetune import param_groups
from jaxtl.models.base import Model, image_channels, span
from jaxtl.models.resize import resize_positions
from jaxtl.pretrained.load import abstract_variables
from jaxtl.trees import nest

SMALL = {
    "vit": "vit_s16:patch=8,width=32,depth=3,heads=2",
    "vit_mean": "vit_s16:patch=8,width=32,depth=2,heads=2,pool=mean,class_token=false,norm_after_pool=true",
    "vit_pre_logits": "vit_s16:patch=8,width=32,depth=2,heads=2,pre_logits=8",
    "deit": "deit_s16_distilled:patch=8,width=32,depth=2,heads=2",
    "dinov2": "dinov2_s14_registers:image_size=32,patch=8,width=32,depth=2,heads=2",
    "hybrid": "vit_r26_s32:stages=1-1,stem_width=32,width=32,depth=2,heads=2",
    "resnet_basic": "resnet18:stages=1-2,width=8",
    "resnet_bottleneck": "resnet50d:stages=1-2,width=8",
    "resnet_cifar": "resnet20_cifar:blocks=1,width=8",
    "bit": "bit_r50x1:stages=1-2,width=32",
    "resnet_v2": "resnet50v2:stages=2-1,width=8",
}


# Parameters with 1000 classes.
PUBLISHED = {
    "vit_ti16": 5_717_416,
    "vit_s16": 22_050_664,
    "vit_b32": 88_224_232,
    "vit_h14": 632_045_800,
    "deit_s16_distilled": 22_436_432,
    "deit3_b16": 86_585_320,
    "resnet18": 11_689_512,
    "resnet34": 21_797_672,
    "resnet101": 44_549_160,
    "bit_r101x1": 44_541_480,
    "resnet50v2": 25_568_360,
    "mobilenet_v1": 4_231_976,
    "mobilenet_v1_025": 470_072,
    "resnet20_cifar": 269_722 + 990 * 64 + 990,  # 269,722 with 10.
}
# SMALL has one of each family.
QUICK = ("vit_ti16", "resnet18")
# Two-digit numbers are where a pattern can go wrong: of the published ones in all families but this.
LONG = "resnet20_cifar:blocks=11,width=4"


@pytest.mark.parametrize(
    "name",
    [
        *SMALL.values(),
        LONG,
        *QUICK,
        # These differ from the others in width and depth alone.
        *(pytest.param(name, marks=pytest.mark.slow) for name in models.names() if name not in QUICK),
    ],
)
def test_every_leaf_is_in_exactly_one_group_and_their_sizes_are_the_published_ones(name):
    model = models.build(name, num_classes=1000)
    groups = model.groups()
    names = [name for name, _ in groups]
    assert names[-1] == "head"
    leaves = abstract_variables(model, model.image_size)
    owned = set()
    for path in leaves:
        (owner,) = (name for name, pattern in groups if re.match(rf"(?:{pattern})(?:/|$)", path.partition("/")[2]))
        owned.add(owner)
    assert owned == set(names)

    params = nest(leaves)["params"]
    assignment = param_groups.assign(params, groups)
    assert list(dict.fromkeys(assignment.values())) == names
    scales = {path.removesuffix("scale") for path in assignment if path.endswith("scale")}
    if scales:  # AlexNet, LeNet and the plain VGGs have no normalisation.
        norms = param_groups.select(assignment, "norms")
        assert {path for path, label in norms.items() if label != param_groups.FROZEN} == {
            path for path in assignment if path.removesuffix(path.split("/")[-1]) in scales
        }
    if name in PUBLISHED:
        assert sum(leaf.size for leaf in jax.tree.leaves(params)) == PUBLISHED[name]


@pytest.mark.parametrize(
    "kind",
    [pytest.param(kind, marks=[pytest.mark.slow] * (kind not in ("vit", "resnet_basic"))) for kind in SMALL],
)
def test_groups_one_after_another_are_the_whole(kind):
    model = models.build(SMALL[kind], num_classes=3, image_size=32)
    leaves = abstract_variables(model, 32)
    generator = np.random.default_rng(0)
    variables = nest(
        {path: generator.uniform(0.1, 0.3, leaf.shape).astype(np.float32) for path, leaf in leaves.items()}
    )
    images = generator.normal(size=(2, 32, 32, 3)).astype(np.float32)
    names = [name for name, _ in model.groups()]

    @jax.jit
    def run(variables, images):
        x = images
        for name in names:
            x = model.apply(variables, x, start=name, stop=name)
        return x, model.apply(variables, images), model.apply(variables, images, stop=names[-2])

    stepwise, whole, features = run(variables, images)
    np.testing.assert_allclose(stepwise, whole, atol=1e-5)
    assert whole.dtype == jnp.float32
    headless = models.build(SMALL[kind], num_classes=0, image_size=32)
    assert features.shape[0] == 2
    shape = jax.eval_shape(headless.apply, variables, images).shape
    assert features.shape == shape


FIRST = {"resnet_bottleneck": "conv1_0", "hybrid": "conv1", "vit": "patch_embed", "deit": "patch_embed"}


@pytest.mark.parametrize("kind", SMALL)
def test_a_model_names_its_first_layer_and_its_head(kind):
    model = models.build(SMALL[kind], num_classes=3, image_size=32)
    assert isinstance(model, Model)
    assert set(model.unseen) <= {field.name for field in dataclasses.fields(model)}
    leaves = abstract_variables(model, 32, channels=5)
    if kind in FIRST:
        assert model.first_layer == f"params/{FIRST[kind]}/kernel"
    assert image_channels(model, leaves) == 5
    # It is the only array that follows the channels.
    shapes = {path: leaf.shape for path, leaf in abstract_variables(model, 32).items()}
    assert [path for path in shapes if shapes[path] != leaves[path].shape] == [model.first_layer]
    assert leaves[model.head_path].shape[-1] == 3


@pytest.mark.parametrize(
    ("kind", "left"),
    [
        # timm 1.0.31: VisionTransformer {pos_embed, cls_token, dist_token, reg_token}; its ResNets have no such set.
        ("vit", {"pos_embed", "cls_token"}),
        ("deit", {"pos_embed", "cls_token", "dist_token"}),
        ("dinov2", {"pos_embed", "cls_token", "reg_token"}),
        ("hybrid", {"pos_embed", "cls_token"}),
        ("resnet_bottleneck", set()),
        ("resnet_cifar", set()),
        ("bit", set()),
    ],
)
def test_what_weight_decay_leaves_alone(kind, left):
    model = models.build(SMALL[kind], num_classes=3, image_size=32)
    paths = [path.partition("/")[2] for path in abstract_variables(model, 32) if path.startswith("params/")]
    patterns = model.no_weight_decay()
    assert {path for path in paths if any(re.fullmatch(pattern, path) for pattern in patterns)} == left
    assert {path for path in paths if any(re.match(rf"(?:{p})(?:/|$)", path) for p in patterns)} == left


def test_arrays_are_fitted_where_the_family_says_so():
    vit = models.build(SMALL["vit"], num_classes=3, image_size=32)
    resnet = models.build(SMALL["resnet_basic"], num_classes=3, image_size=32)
    positions = np.random.default_rng(0).normal(size=(1, 17, 32)).astype(np.float32)
    fit = vit.fit("params/pos_embed", (1, 17, 32), (1, 10, 32), positions="bicubic")
    np.testing.assert_array_equal(fit(positions), resize_positions(positions, 10, prefix=1, how="bicubic"))
    assert fit(positions).shape == (1, 10, 32)
    assert vit.fit("params/pos_embed", (1, 18, 32), (1, 10, 32), positions="bicubic") is None
    assert vit.fit("params/pos_embed", (1, 17, 32), (1, 10, 16), positions="bicubic") is None
    kernel = np.ones((7, 7, 3, 8), np.float32)
    assert resnet.fit("params/conv1/kernel", (7, 7, 3, 8), (7, 7, 1, 8), positions="")(kernel).max() == 3
    for path, before, after in [
        ("params/layer1.0/conv1/kernel", (3, 3, 3, 8), (3, 3, 1, 8)),
        ("params/conv1/kernel", (7, 7, 3, 8), (3, 3, 1, 8)),
        ("params/pos_embed", (1, 17, 32), (1, 10, 32)),
    ]:
        assert resnet.fit(path, before, after, positions="") is None


def test_a_span_of_groups():
    groups = (("a", "a"), ("b", "b"), ("c", "c"))
    assert span(groups, None, None) == ("a", "b", "c")
    assert span(groups, "b", None) == ("b", "c")
    assert span(groups, "b", "b") == ("b",)
    with pytest.raises(ValueError, match="no group 'd'; the model has a, b, c"):
        span(groups, None, "d")
    with pytest.raises(ValueError, match="'a' comes before 'c'"):
        span(groups, "c", "a")
