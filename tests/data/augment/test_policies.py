from collections import Counter

import numpy as np
import pytest
import real_packages
from PIL import Image

from jaxtl.data.augment import Augmentation, policies
from jaxtl.data.augment.affine import Fill

GREY = Fill("constant", (10, 200, 90))
POLICIES = {"randaugment": 31, "trivialaugment": 31, "autoaugment": 10}


def noise(side=64, seed=0):
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (side, side, 3), dtype=np.uint8))


def torchvision_space(policy, side):
    """Reads the operations and magnitudes that torchvision has for images of that side."""
    autoaugment = real_packages.torchvision().transforms.autoaugment
    if policy == "trivialaugment":
        return autoaugment.TrivialAugmentWide()._augmentation_space(31)
    kind = autoaugment.RandAugment if policy == "randaugment" else autoaugment.AutoAugment
    return kind()._augmentation_space(POLICIES[policy], (side, side))


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("side", [32, 224])
def test_the_operations_and_magnitudes_are_torchvisions(policy, side):
    real, ours = torchvision_space(policy, side), policies.space(policy, side)
    assert list(ours) == list(real)
    for name, (magnitudes, signed) in real.items():
        assert ours[name][1] == signed, name
        np.testing.assert_allclose(ours[name][0], np.atleast_1d(magnitudes), rtol=1e-6, err_msg=name)


def test_the_policies_of_autoaugment_are_torchvisions():
    autoaugment = real_packages.torchvision().transforms.autoaugment
    real = autoaugment.AutoAugment()._get_policies(autoaugment.AutoAugmentPolicy.IMAGENET)
    assert [tuple((name, p, level or 0) for name, p, level in pair) for pair in real] == list(policies.AUTOAUGMENT)


def operations():
    """Names each operation with its smallest, a middle and its largest magnitude, of both signs."""
    found = set()
    for policy in POLICIES:
        for name, (magnitudes, signed) in policies.space(policy, 64).items():
            for level in {0, len(magnitudes) // 3, len(magnitudes) - 1}:
                magnitude = float(magnitudes[level])
                found |= {(name, magnitude), (name, -magnitude if signed else magnitude)}
    return sorted(found)


@pytest.mark.parametrize(("name", "magnitude"), operations())
def test_each_operation_is_torchvisions(name, magnitude):
    """Whole images, borders too: both fill a hard edge with one colour."""
    real_packages.torchvision()
    from torchvision.transforms import InterpolationMode
    from torchvision.transforms.autoaugment import _apply_op

    image = noise()
    wanted = _apply_op(image, name, magnitude, InterpolationMode.BILINEAR, list(GREY.color))
    ours = policies.apply_operation(image, name, magnitude, GREY)
    assert np.abs(np.asarray(ours).astype(int) - np.asarray(wanted)).max() <= 1


def test_literal_operations():
    image = Image.fromarray(np.array([[[0, 100, 255], [7, 128, 200]]], np.uint8))

    def after(name, magnitude):
        return np.asarray(policies.apply_operation(image, name, magnitude, GREY)).tolist()[0]

    assert after("Identity", 0.0) == [[0, 100, 255], [7, 128, 200]]
    assert after("Invert", 0.0) == [[255, 155, 0], [248, 127, 55]]
    assert after("Posterize", 4.0) == [[0, 96, 240], [0, 128, 192]]
    assert after("Solarize", 128.0) == [[0, 100, 0], [7, 127, 55]]
    assert after("TranslateX", 1.9) == [[10, 200, 90], [0, 100, 255]]
    assert after("Brightness", -0.5) == [[0, 50, 127], [3, 64, 100]]


@pytest.mark.parametrize("policy", POLICIES)
def test_every_operation_is_drawn_equally_often(policy, monkeypatch):
    drawn = []
    monkeypatch.setattr(policies, "apply_operation", lambda view, name, m, fill: drawn.append((name, m)) or view)
    a, rng, view = Augmentation(policy=policy, num_ops=3, magnitude=9), np.random.default_rng(0), noise(32)
    for _ in range(3000):
        policies.apply_policy(view, rng, a, GREY)
    counts = Counter(name for name, _ in drawn)
    space = policies.space(policy, 32)
    if policy == "autoaugment":
        wanted = Counter()
        for pair in policies.AUTOAUGMENT:
            for name, probability, _ in pair:
                wanted[name] += probability / 25
    else:
        assert len(drawn) == 3000 * (3 if policy == "randaugment" else 1)
        wanted = dict.fromkeys(space, len(drawn) / 3000 / len(space))
    for name, share in wanted.items():
        assert abs(counts[name] / 3000 - share) < 4 * np.sqrt(share / 3000), name
    turns = [magnitude for name, magnitude in drawn if name == "Rotate"]
    assert 0.4 < np.mean(np.array(turns) > 0) < 0.6 or policy == "trivialaugment"
    if policy == "randaugment":
        assert {abs(turn) for turn in turns} == {9.0}
    if policy == "trivialaugment":
        assert len({abs(turn) for turn in turns}) > 25
