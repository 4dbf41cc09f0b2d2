"""Networks that Keras makes and saves itself, and the comparison with ours."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import keras
import numpy as np
from parity import load, outputs, same, train_once

from jaxtl import pretrained

CLASSES = 5


def make(name: str, size: int | None, **arguments: Any) -> keras.Model:
    """Makes a network of `keras.applications` that gives logits, for images of a size or, with None, of any."""
    build = getattr(keras.applications, name)
    shape = (size, size, 3)
    return build(weights=None, classes=CLASSES, classifier_activation=None, input_shape=shape, **arguments)


def randomise(module: keras.Model, seed: int = 0) -> keras.Model:
    """Gives every parameter and statistic a value of its own, and leaves nothing that is drawn in training."""
    generator = np.random.default_rng(seed)
    for layer in module._flatten_layers():
        if isinstance(layer, keras.layers.Dropout):
            layer.rate = 0.0
    for variable in module.weights:
        noise, name = generator.normal(size=variable.shape), variable.path.rpartition("/")[2]
        if name == "count":
            continue
        if name in ("moving_variance", "variance"):
            variable.assign(0.5 + np.abs(noise))
        elif name == "gamma":
            variable.assign(1 + 0.3 * noise)
        elif noise.ndim < 2:
            variable.assign(0.3 * noise)
        else:
            # A depthwise kernel [h, w, C, 1] sums over its window alone.
            alone = noise.ndim == 4 and noise.shape[-1] == 1
            summed = np.prod(noise.shape[:2]) if alone else noise[..., 0].size
            variable.assign(noise * 0.8 / np.sqrt(summed))
    return refreshed(module)


def refreshed(module: keras.Model) -> keras.Model:
    """Has layers that normalise pixels take note of their arrays, as they do when Keras loads them."""
    for layer in module._flatten_layers():
        if isinstance(layer, keras.layers.Normalization) and layer.input_mean is None:
            layer.finalize_state()
    return module


def save(module: keras.Model, folder: Path, ending: str) -> Path:
    """Writes a network as users of Keras do, by the ending: ".keras", ".weights.h5" or ".h5"."""
    path = folder / f"network{ending}"
    (module.save_weights if ending.endswith(".weights.h5") else module.save)(path)
    return path


def photographs(size: int, count: int = 2) -> np.ndarray:
    """Gives random images [B, H, W, 3] with values in 0 to 255."""
    return np.random.default_rng(size).uniform(0, 255, (count, size, size, 3)).astype(np.float32)


def normalised(batch: np.ndarray, place: Path) -> np.ndarray:
    """Prepares pixels in 0 to 255 as the weights say."""
    pixels = pretrained.open_weights(str(place)).pixels
    return (batch / np.float32(255) - np.float32(pixels.mean)) / np.float32(pixels.std)


def run(module: keras.Model, batch: np.ndarray, *, training: bool = False) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Computes the outputs of a network, and its statistics after that, in one compiled function."""
    trainable = [variable.value for variable in module.trainable_variables]
    others = [variable.value for variable in module.non_trainable_variables]
    step = jax.jit(lambda *arguments: module.stateless_call(*arguments, training=training))
    found, updated = step(trainable, others, batch)
    found = found if isinstance(found, list) else [found]
    return [np.asarray(each) for each in found], [np.asarray(each) for each in updated]


def check(
    module: keras.Model,
    folder: Path,
    *,
    endings: Sequence[str],
    sizes: Sequence[int],
    after: str,
    part: Any,
    preprocess: Any = lambda batch: batch,
    make_again: Any = None,
) -> None:
    """Compares logits, one intermediate map, and a batch in training mode with what the real network gives.

    Args:
      module: the network; it gets random parameters and statistics.
      folder: where it is saved.
      endings: of the files; all hold the same arrays, and the first is compared in all sizes.
      sizes: sides of the images; those of the training batch are the first.
      after: the group of ours whose output is compared.
      part: the name of the layer that returns the same, or what gives its output.
      preprocess: what is done to pixels in 0 to 255 before the network, as in Keras' `preprocess_input`.
      make_again: makes the network for another size, where it is made for one.
    """
    randomise(module)
    places = [save(module, folder, ending) for ending in endings]
    first, *others = (pretrained.open_weights(str(place)) for place in places)
    for other in others:
        assert set(other.arrays) == set(first.arrays)
        assert all(np.array_equal(other.arrays[name], first.arrays[name]) for name in first.arrays)
        assert other.num_classes == CLASSES
        np.testing.assert_allclose([other.pixels.mean, other.pixels.std], [first.pixels.mean, first.pixels.std], 1e-5)
    for size in sizes:
        again = module
        if make_again is not None and size != sizes[0]:
            again = make_again(size)
            again.set_weights(module.get_weights())
            refreshed(again)
        middle = part(again) if callable(part) else again.get_layer(part).output
        again = keras.Model(again.input, [middle, again.output])
        batch = photographs(size)
        model, variables = load(places[size != sizes[0]], num_classes=CLASSES, image_size=size)
        (middle, logits), _ = run(again, preprocess(batch.copy()))
        ours, our_logits = outputs(model, variables, normalised(batch, places[0]), after=after)
        same(our_logits, logits)
        same(ours, middle)
    if "batch_stats" in variables:
        _check_training(module, places[0], photographs(sizes[0], count=8), preprocess)


def _check_training(module: keras.Model, place: Path, batch: np.ndarray, preprocess: Any) -> None:
    model, variables = load(place, num_classes=CLASSES, image_size=batch.shape[1])
    (theirs,), updated = run(module, preprocess(batch.copy()), training=True)
    for variable, value in zip(module.non_trainable_variables, updated, strict=True):
        variable.assign(value)
    changed = pretrained.open_weights(str(save(module, place.parent, "-trained.weights.h5"))).arrays
    logits, statistics = train_once(model, variables, normalised(batch, place))
    same(logits, theirs)
    plan = pretrained.open_weights(str(place)).plan.parts
    assert len(statistics) == sum(target.startswith("batch_stats/") for target in plan)
    for target, (source,) in plan.items():
        if target.startswith("batch_stats/"):
            ours = np.asarray(statistics[target.removeprefix("batch_stats/")])
            np.testing.assert_allclose(ours, changed[source.source], atol=1e-4, rtol=1e-4)
