"""Mixed examples: pairs of images blended (mixup) or patched (cutmix), on the device, with the labels to go with them.

Each row mixes with the row after it, the last with the first: rows are in random order already, and only one row has
to travel between neighbouring devices.
"""

import jax
import jax.numpy as jnp

from jaxtl.train.state import Batch


def mixup(batch: Batch, key: jax.Array, *, alpha: float, num_classes: int) -> dict[str, jax.Array]:
    """Returns the batch with each image a blend of two, and labels [B, C] blended alike.

    The share of the own image is drawn from Beta(alpha, alpha) for each row (https://arxiv.org/abs/1710.09412). A row
    whose partner has mask 0 stays as it is.

    Args:
      batch: "image" [B, H, W, C] float, "label" [B] or [B, K], "mask" [B].
      key: of the draws.
      alpha: above 0; the larger, the more even the blends.
      num_classes: K.
    """
    own = _unless_alone(jax.random.beta(key, alpha, alpha, batch["mask"].shape), batch)
    image = batch["image"]
    share = own.astype(image.dtype)[:, None, None, None]
    # Chosen, not multiplied by 0: nothing that padding holds gets through.
    mixed = jnp.where(share < 1, share * image + (1 - share) * jnp.roll(image, 1, axis=0), image)
    return _mixed(batch, mixed, own, num_classes)


def cutmix(batch: Batch, key: jax.Array, *, alpha: float, num_classes: int) -> dict[str, jax.Array]:
    """Returns the batch with a rectangle of each image from another, and labels [B, C] by the shares of the area.

    The rectangle's share of the area is drawn from Beta(alpha, alpha) and its centre evenly over the image, for each
    row (https://arxiv.org/abs/1905.04899); what sticks out is cut off, and the labels follow the pixels that remain. A
    row whose partner has mask 0 stays as it is.

    Args:
      batch: "image" [B, H, W, C] float, "label" [B] or [B, K], "mask" [B].
      key: of the draws.
      alpha: above 0.
      num_classes: K.
    """
    image = batch["image"]
    rows, height, width, _ = image.shape
    share_key, y_key, x_key = jax.random.split(key, 3)
    own = _unless_alone(jax.random.beta(share_key, alpha, alpha, (rows,)), batch)
    side = jnp.sqrt(1 - own)
    inside = _between(y_key, side, height)[:, :, None] & _between(x_key, side, width)[:, None, :]
    mixed = jnp.where(inside[..., None], jnp.roll(image, 1, axis=0), image)
    return _mixed(batch, mixed, 1 - inside.mean((1, 2)), num_classes)


def mix(
    batch: Batch, key: jax.Array, *, mixup_alpha: float, cutmix_alpha: float, num_classes: int
) -> dict[str, jax.Array]:
    """Returns the batch mixed in the ways whose alpha is above 0; of two ways each row takes one, at even odds."""
    if not cutmix_alpha:
        return mixup(batch, key, alpha=mixup_alpha, num_classes=num_classes) if mixup_alpha else dict(batch)
    if not mixup_alpha:
        return cutmix(batch, key, alpha=cutmix_alpha, num_classes=num_classes)
    which, first, second = jax.random.split(key, 3)
    blended = mixup(batch, first, alpha=mixup_alpha, num_classes=num_classes)
    patched = cutmix(batch, second, alpha=cutmix_alpha, num_classes=num_classes)
    blends = jax.random.bernoulli(which, 0.5, batch["mask"].shape)
    return {
        **batch,
        "image": jnp.where(blends[:, None, None, None], blended["image"], patched["image"]),
        "label": jnp.where(blends[:, None], blended["label"], patched["label"]),
        "mask": jnp.where(blends, blended["mask"], patched["mask"]),
    }


def _unless_alone(own: jax.Array, batch: Batch) -> jax.Array:
    return jnp.where(jnp.roll(batch["mask"], 1) > 0, own, 1.0)


def _between(key: jax.Array, side: jax.Array, length: int) -> jax.Array:
    """Marks the pixels of one axis, [B, length], that a stretch of the share `side` [B] at a random centre covers."""
    centre = jax.random.uniform(key, side.shape, maxval=length)
    pixel = jnp.arange(length, dtype=jnp.float32)[None, :] + 0.5
    return jnp.abs(pixel - centre[:, None]) < (side * length / 2)[:, None]


def _mixed(batch: Batch, image: jax.Array, own: jax.Array, num_classes: int) -> dict[str, jax.Array]:
    """Returns the batch with mixed images, whose labels and weights are mixed by the share `own` [B] of the own one."""
    labels, mask = batch["label"], batch["mask"]
    soft = jax.nn.one_hot(labels, num_classes) if labels.ndim == 1 else labels
    soft = own[:, None] * soft + (1 - own)[:, None] * jnp.roll(soft, 1, axis=0)
    # Written so that equal weights stay what they are, to the last bit.
    weights = jnp.where(mask > 0, mask + (1 - own) * (jnp.roll(mask, 1) - mask), mask)
    return {**batch, "image": image, "label": soft, "mask": weights}
