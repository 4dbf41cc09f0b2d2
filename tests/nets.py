"""A small network with everything that freezing must mind: convolution, BatchNorm, dropout, and a head."""

import flax.linen as nn
import numpy as np

TABLE = (("stem", "conv1|bn1"), ("layer", "conv2|bn2"), ("head", "head"))


class Net(nn.Module):
    classes: int = 3
    dropout: float = 0.0

    @nn.compact
    def __call__(self, x, train=False):
        for name in ("1", "2"):
            x = nn.Conv(8, (3, 3), use_bias=False, name=f"conv{name}")(x)
            # The flag once as a field and once as an argument: Linen code has both.
            if name == "1":
                x = nn.BatchNorm(use_running_average=not train, momentum=0.9, name="bn1")(x)
            else:
                x = nn.BatchNorm(momentum=0.9, name="bn2")(x, use_running_average=not train)
            x = nn.relu(x)
        x = nn.Dropout(self.dropout, deterministic=not train)(x.mean((1, 2)))
        return nn.Dense(self.classes, name="head")(x)


def batch(size=8, seed=0):
    images = np.random.default_rng(seed).normal(size=(size, 8, 8, 3)).astype(np.float32)
    return {"image": images, "label": np.arange(size, dtype=np.int32) % 3}
