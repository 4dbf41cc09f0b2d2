"""Google's ViT, hybrid and BiT as plain functions of the arrays in their .npz files, in float64 numpy."""

import numpy as np

Arrays = dict[str, np.ndarray]


class Draw:
    """Makes arrays by name, random and reproducible."""

    def __init__(self, seed: int):
        self.generator = np.random.default_rng(seed)
        self.arrays: Arrays = {}

    def weight(self, name: str, *shape: int, fan_in: int = 0) -> None:
        scale = 0.8 / np.sqrt(fan_in or np.prod(shape[:-1]))
        self.arrays[name] = (scale * self.generator.normal(size=shape)).astype(np.float32)

    def vector(self, name: str, *shape: int, around: float = 0.0) -> None:
        self.arrays[name] = (around + 0.3 * self.generator.normal(size=shape)).astype(np.float32)


def draw_transformer(draw: Draw, width: int, depth: int, heads: int, classes: int, pre_logits: int) -> None:
    size = width // heads
    for i in range(depth):
        block = f"Transformer/encoderblock_{i}/"
        for norm in ("LayerNorm_0", "LayerNorm_2"):
            draw.vector(f"{block}{norm}/scale", width, around=1)
            draw.vector(f"{block}{norm}/bias", width)
        attention = block + "MultiHeadDotProductAttention_1/"
        for name in ("query", "key", "value"):
            draw.weight(f"{attention}{name}/kernel", width, heads, size, fan_in=width)
            draw.vector(f"{attention}{name}/bias", heads, size)
        draw.weight(f"{attention}out/kernel", heads, size, width, fan_in=width)
        draw.vector(f"{attention}out/bias", width)
        for j, (before, after) in enumerate([(width, 4 * width), (4 * width, width)]):
            draw.weight(f"{block}MlpBlock_3/Dense_{j}/kernel", before, after)
            draw.vector(f"{block}MlpBlock_3/Dense_{j}/bias", after)
    draw.vector("Transformer/encoder_norm/scale", width, around=1)
    draw.vector("Transformer/encoder_norm/bias", width)
    if pre_logits:
        draw.weight("pre_logits/kernel", width, pre_logits)
        draw.vector("pre_logits/bias", pre_logits)
    draw.weight("head/kernel", pre_logits or width, classes)
    draw.vector("head/bias", classes)


def draw_embedding(draw: Draw, patch: int, channels: int, width: int, grid: int) -> None:
    draw.weight("embedding/kernel", patch, patch, channels, width)
    draw.vector("embedding/bias", width)
    draw.vector("cls", 1, 1, width)
    draw.vector("Transformer/posembed_input/pos_embedding", 1, grid * grid + 1, width)


def conv(x: np.ndarray, kernel: np.ndarray, stride: int, padding: tuple[int, int]) -> np.ndarray:
    """Convolves [B, H, W, C] with [h, w, C, D]; `padding` counts the zeros before and after each side."""
    x = np.pad(x, ((0, 0), padding, padding, (0, 0)))
    windows = np.lib.stride_tricks.sliding_window_view(x, kernel.shape[:2], axis=(1, 2))[:, ::stride, ::stride]
    return np.einsum("bhwcij,ijcd->bhwd", windows, kernel, optimize=True)


def same(side: int, size: int, stride: int) -> tuple[int, int]:
    """Gives TensorFlow's SAME padding: the odd zero comes after."""
    total = max((-(-side // stride) - 1) * stride + size - side, 0)
    return total // 2, total - total // 2


def max_pool(x: np.ndarray, padding: tuple[int, int], value: float) -> np.ndarray:
    """Takes the maximum of 3 x 3 windows at stride 2."""
    x = np.pad(x, ((0, 0), padding, padding, (0, 0)), constant_values=value)
    return np.lib.stride_tricks.sliding_window_view(x, (3, 3), axis=(1, 2))[:, ::2, ::2].max(axis=(-2, -1))


def group_norm(x: np.ndarray, scale: np.ndarray, bias: np.ndarray, epsilon: float) -> np.ndarray:
    groups = x.reshape(*x.shape[:3], 32, -1)
    mean = groups.mean(axis=(1, 2, 4), keepdims=True)
    variance = groups.var(axis=(1, 2, 4), keepdims=True)
    return ((groups - mean) / np.sqrt(variance + epsilon)).reshape(x.shape) * scale.ravel() + bias.ravel()


def layer_norm(x: np.ndarray, scale: np.ndarray, bias: np.ndarray) -> np.ndarray:
    x = x - x.mean(axis=-1, keepdims=True)
    return x / np.sqrt((x**2).mean(axis=-1, keepdims=True) + 1e-6) * scale + bias


def gelu(x: np.ndarray) -> np.ndarray:
    return x / 2 * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3)))


def transformer(arrays: Arrays, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Takes a map [B, h, w, D] of embedded patches; gives the tokens after the second block, and the logits."""
    x = x.reshape(len(x), -1, x.shape[-1])
    x = np.concatenate([np.broadcast_to(arrays["cls"], (len(x), 1, x.shape[-1])), x], axis=1)
    x = x + arrays["Transformer/posembed_input/pos_embedding"]
    i, middle = 0, x
    while f"Transformer/encoderblock_{i}/LayerNorm_0/scale" in arrays:
        part = {name.split("/", 2)[2]: array for name, array in arrays.items() if f"/encoderblock_{i}/" in name}
        y = layer_norm(x, part["LayerNorm_0/scale"], part["LayerNorm_0/bias"])
        query, key, value = (
            np.einsum("bnd,dhk->bhnk", y, part[f"MultiHeadDotProductAttention_1/{name}/kernel"])
            + part[f"MultiHeadDotProductAttention_1/{name}/bias"][:, None]
            for name in ("query", "key", "value")
        )
        scores = np.exp(query @ key.swapaxes(-1, -2) / np.sqrt(query.shape[-1]))
        y = scores / scores.sum(axis=-1, keepdims=True) @ value
        x = x + np.einsum("bhnk,hkd->bnd", y, part["MultiHeadDotProductAttention_1/out/kernel"])
        x = x + part["MultiHeadDotProductAttention_1/out/bias"]
        y = layer_norm(x, part["LayerNorm_2/scale"], part["LayerNorm_2/bias"])
        y = gelu(y @ part["MlpBlock_3/Dense_0/kernel"] + part["MlpBlock_3/Dense_0/bias"])
        x = x + y @ part["MlpBlock_3/Dense_1/kernel"] + part["MlpBlock_3/Dense_1/bias"]
        middle = x if i == 1 else middle
        i += 1
    x = layer_norm(x, arrays["Transformer/encoder_norm/scale"], arrays["Transformer/encoder_norm/bias"])[:, 0]
    if "pre_logits/kernel" in arrays:
        x = np.tanh(x @ arrays["pre_logits/kernel"] + arrays["pre_logits/bias"])
    return middle, x @ arrays["head/kernel"] + arrays["head/bias"]


def vit(arrays: Arrays, images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    kernel = arrays["embedding/kernel"]
    return transformer(arrays, conv(images, kernel, kernel.shape[0], (0, 0)) + arrays["embedding/bias"])


def draw_hybrid_unit(draw: Draw, unit: str, before: int, width: int, *, project: bool) -> None:
    sizes = {"1": (1, before, width), "2": (3, width, width), "3": (1, width, 4 * width)}
    if project:
        sizes["_proj"] = (1, before, 4 * width)
    for name, (size, inner, outer) in sizes.items():
        draw.weight(f"{unit}conv{name}/kernel", size, size, inner, outer)
        norm = f"{unit}gn{name}"
        draw.vector(f"{norm}/scale", outer, around=1)
        draw.vector(f"{norm}/bias", outer)


def hybrid(arrays: Arrays, images: np.ndarray, stages: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Gives the ResNet's map, the tokens after the second block, and the logits."""

    def layer(x, conv_name, norm_name, stride):
        kernel = arrays[f"{conv_name}/kernel"].astype(np.float64)
        kernel = kernel - kernel.mean(axis=(0, 1, 2))
        kernel = kernel / (kernel.std(axis=(0, 1, 2)) + 1e-5)
        x = conv(x, kernel, stride, same(x.shape[1], kernel.shape[0], stride))
        return group_norm(x, arrays[f"{norm_name}/scale"], arrays[f"{norm_name}/bias"], 1e-6)

    x = np.maximum(layer(images, "conv_root", "gn_root", 2), 0)
    x = max_pool(x, same(x.shape[1], 3, 2), -np.inf)
    for stage, count in enumerate(stages, start=1):
        for index in range(1, count + 1):
            unit = f"block{stage}/unit{index}/"
            stride = 2 if stage > 1 and index == 1 else 1
            shortcut = layer(x, f"{unit}conv_proj", f"{unit}gn_proj", stride) if index == 1 else x
            x = np.maximum(layer(x, f"{unit}conv1", f"{unit}gn1", 1), 0)
            x = np.maximum(layer(x, f"{unit}conv2", f"{unit}gn2", stride), 0)
            x = np.maximum(shortcut + layer(x, f"{unit}conv3", f"{unit}gn3", 1), 0)
    return x, *transformer(arrays, conv(x, arrays["embedding/kernel"], 1, (0, 0)) + arrays["embedding/bias"])


def draw_bit(draw: Draw, stages: tuple[int, ...], width: int, classes: int) -> None:
    draw.weight("resnet/root_block/standardized_conv2d/kernel", 7, 7, 3, width)
    before = width
    for stage, count in enumerate(stages, start=1):
        inner = width * 2 ** (stage - 1)
        for index in range(1, count + 1):
            unit = f"resnet/block{stage}/unit{index:02d}/"
            sizes = {"a": (1, before, inner), "b": (3, inner, inner), "c": (1, inner, 4 * inner)}
            for name, (size, inputs, outputs) in sizes.items():
                draw.weight(f"{unit}{name}/standardized_conv2d/kernel", size, size, inputs, outputs)
                draw.vector(f"{unit}{name}/group_norm/gamma", inputs, around=1)
                draw.vector(f"{unit}{name}/group_norm/beta", inputs)
            if index == 1:
                draw.weight(f"{unit}a/proj/standardized_conv2d/kernel", 1, 1, before, 4 * inner)
            before = 4 * inner
    draw.vector("resnet/group_norm/gamma", before, around=1)
    draw.vector("resnet/group_norm/beta", before)
    draw.weight("resnet/head/conv2d/kernel", 1, 1, before, classes)
    draw.vector("resnet/head/conv2d/bias", classes)


def bit(arrays: Arrays, images: np.ndarray, stages: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray]:
    """Gives the map after the second stage, and the logits."""

    def standardized(x, name, stride=1):
        kernel = arrays[f"{name}/standardized_conv2d/kernel"].astype(np.float64)
        kernel = (kernel - kernel.mean(axis=(0, 1, 2))) / np.sqrt(kernel.var(axis=(0, 1, 2)) + 1e-10)
        return conv(x, kernel, stride, (kernel.shape[0] // 2,) * 2)

    def activated(x, name):
        return np.maximum(group_norm(x, arrays[f"{name}/group_norm/gamma"], arrays[f"{name}/group_norm/beta"], 1e-5), 0)

    x = max_pool(standardized(images, "resnet/root_block", 2), (1, 1), 0.0)
    middle = x
    for stage, count in enumerate(stages, start=1):
        for index in range(1, count + 1):
            unit = f"resnet/block{stage}/unit{index:02d}"
            stride = 2 if stage > 1 and index == 1 else 1
            y = activated(x, f"{unit}/a")
            shortcut = standardized(y, f"{unit}/a/proj", stride) if index == 1 else x
            y = activated(standardized(y, f"{unit}/a"), f"{unit}/b")
            y = activated(standardized(y, f"{unit}/b", stride), f"{unit}/c")
            x = shortcut + standardized(y, f"{unit}/c")
        middle = x if stage == 2 else middle
    x = activated(x, "resnet").mean(axis=(1, 2))
    return middle, x @ arrays["resnet/head/conv2d/kernel"][0, 0] + arrays["resnet/head/conv2d/bias"]
