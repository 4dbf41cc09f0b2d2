"""A map over its image: the image in grey, and the colours of the map where it is strong."""

import numpy as np

# Its lightness grows evenly, for those too who confuse colours, and in print.
COLOR_MAP = "inferno"
# How much of the grey image the strongest and the weakest places hide.
_STRONGEST, _WEAKEST = 0.8, 0.3


def to_unit(maps: np.ndarray) -> np.ndarray:
    """Stretches each map [B, H, W] to [0, 1], the strongest hundredth of its pixels all to 1; an even one is 0.

    Without that, a few pixels of integrated gradients would leave all others dark.
    """
    low = maps.min(axis=(1, 2), keepdims=True)
    high = np.quantile(maps, 0.99, axis=(1, 2), keepdims=True)
    # A map that is strong in less than a hundredth of its pixels.
    high = np.where(high > low, high, maps.max(axis=(1, 2), keepdims=True))
    stretched: np.ndarray = np.clip((maps - low) / np.maximum(high - low, np.finfo(np.float32).tiny), 0, 1)
    return stretched


def overlay(images: np.ndarray, maps: np.ndarray) -> np.ndarray:
    """Returns images with their maps over them, uint8 [B, H, W, 3].

    Args:
      images: uint8 [B, H, W, C], before normalisation.
      maps: float [B, H, W].
    """
    # Here, since it takes a second that only commands with a picture should pay.
    import matplotlib as mpl

    strength = to_unit(np.asarray(maps, np.float32))
    colors = mpl.colormaps[COLOR_MAP](strength)[..., :3]
    grey = images[..., :3].mean(axis=-1, keepdims=True) / 255
    share = (_WEAKEST + (_STRONGEST - _WEAKEST) * strength)[..., None]
    return np.rint(255 * (share * colors + (1 - share) * grey)).astype(np.uint8)
