"""Models of timm and torchvision, written anew in PyTorch with their names, from the papers and their documentation."""

import torch
from torch import nn
from torch.nn import functional


class Attention(nn.Module):
    def __init__(self, width, heads):
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)

    def forward(self, x):
        query, key, value = (
            part.unflatten(-1, (self.heads, -1)).transpose(1, 2) for part in self.qkv(x).chunk(3, dim=-1)
        )
        return self.proj(functional.scaled_dot_product_attention(query, key, value).transpose(1, 2).flatten(2))


class LayerScale(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.gamma = nn.Parameter(torch.ones(width))

    def forward(self, x):
        return x * self.gamma


class TimmBlock(nn.Module):
    def __init__(self, width, heads, layer_scale):
        super().__init__()
        self.norm1 = nn.LayerNorm(width, eps=1e-6)
        self.attn = Attention(width, heads)
        self.norm2 = nn.LayerNorm(width, eps=1e-6)
        self.mlp = nn.Module()
        self.mlp.fc1 = nn.Linear(width, 4 * width)
        self.mlp.fc2 = nn.Linear(4 * width, width)
        self.ls1 = LayerScale(width) if layer_scale else nn.Identity()
        self.ls2 = LayerScale(width) if layer_scale else nn.Identity()

    def forward(self, x):
        x = x + self.ls1(self.attn(self.norm1(x)))
        return x + self.ls2(self.mlp.fc2(functional.gelu(self.mlp.fc1(self.norm2(x)))))


class TimmViT(nn.Module):
    """timm's VisionTransformer; `kind` is "vit", "distilled", "deit3", "registers" or "average"."""

    def __init__(self, kind="vit", size=32, patch=8, width=192, heads=3, depth=3, classes=5):
        super().__init__()
        self.kind, self.patch, self.size = kind, patch, size
        self.patch_embed = nn.Module()
        self.patch_embed.proj = nn.Conv2d(3, width, patch, stride=patch)
        grid = (size // patch) ** 2
        if kind != "average":
            self.cls_token = nn.Parameter(torch.zeros(1, 1, width))
        if kind == "distilled":
            self.dist_token = nn.Parameter(torch.zeros(1, 1, width))
            self.head_dist = nn.Linear(width, classes)
        if kind == "registers":
            self.reg_token = nn.Parameter(torch.zeros(1, 4, width))
        self.embedded = {"vit": 1, "distilled": 2}.get(kind, 0)
        self.pos_embed = nn.Parameter(torch.zeros(1, self.embedded + grid, width))
        self.blocks = nn.ModuleList(TimmBlock(width, heads, kind in ("deit3", "registers")) for _ in range(depth))
        if kind == "average":
            self.fc_norm = nn.LayerNorm(width, eps=1e-6)
        else:
            self.norm = nn.LayerNorm(width, eps=1e-6)
        self.head = nn.Linear(width, classes)

    def positions(self, grid):
        prefix, places = self.pos_embed[:, : self.embedded], self.pos_embed[:, self.embedded :]
        side = int(places.shape[1] ** 0.5)
        places = places.transpose(1, 2).unflatten(2, (side, side))
        places = functional.interpolate(places, size=(grid, grid), mode="bicubic", antialias=True)
        return torch.cat([prefix, places.flatten(2).transpose(1, 2)], dim=1)

    def forward(self, images):
        """Gives the tokens after the second block, and the logits."""
        x = self.patch_embed.proj(images)
        grid, x = x.shape[-1], x.flatten(2).transpose(1, 2)
        positions = self.pos_embed if images.shape[-1] == self.size else self.positions(grid)
        names = [name for name in ("cls_token", "dist_token", "reg_token") if hasattr(self, name)]
        tokens = [getattr(self, name).expand(len(x), -1, -1) for name in names]
        # DeiT III and registers add the positions to the patches alone; the others to their tokens too.
        x = torch.cat([*tokens, x], dim=1) + positions if self.embedded else torch.cat([*tokens, x + positions], dim=1)
        middle = None
        for i, block in enumerate(self.blocks):
            x = block(x)
            middle = x if i == 1 else middle
        if self.kind == "average":
            return middle, self.head(self.fc_norm(x.mean(dim=1)))
        x = self.norm(x)
        if self.kind == "distilled":
            return middle, (self.head(x[:, 0]) + self.head_dist(x[:, 1])) / 2
        return middle, self.head(x[:, 0])


class ResidualBlock(nn.Module):
    """A block of torchvision's ResNet (v1.5), or of timm's ResNet-D with its pooled shortcut."""

    def __init__(self, before, width, stride, bottleneck, pooled):
        super().__init__()
        after = 4 * width if bottleneck else width
        sizes = [(before, width, 1, 1), (width, width, 3, stride), (width, after, 1, 1)]
        if not bottleneck:
            sizes = [(before, width, 3, stride), (width, width, 3, 1)]
        self.count = len(sizes)
        for i, (inner, outer, size, step) in enumerate(sizes, start=1):
            self.add_module(f"conv{i}", nn.Conv2d(inner, outer, size, step, size // 2, bias=False))
            self.add_module(f"bn{i}", nn.BatchNorm2d(outer))
        self.downsample = None
        if stride > 1 or before != after:
            layers = [nn.Conv2d(before, after, 1, 1 if pooled else stride, bias=False), nn.BatchNorm2d(after)]
            if pooled:
                pool = nn.AvgPool2d(2, stride, ceil_mode=True, count_include_pad=False) if stride > 1 else nn.Identity()
                layers = [pool, *layers]
            self.downsample = nn.Sequential(*layers)

    def forward(self, x):
        shortcut = x if self.downsample is None else self.downsample(x)
        for i in range(1, self.count + 1):
            x = getattr(self, f"bn{i}")(getattr(self, f"conv{i}")(x))
            x = torch.relu(x) if i < self.count else x
        return torch.relu(x + shortcut)


class TorchResNet(nn.Module):
    """torchvision's ResNet, or timm's ResNet-D."""

    def __init__(self, stages=(2, 1, 2), bottleneck=True, width=8, classes=5, d=False):
        super().__init__()
        if d:
            half = width // 2
            self.conv1 = nn.Sequential(
                nn.Conv2d(3, half, 3, 2, 1, bias=False),
                nn.BatchNorm2d(half),
                nn.ReLU(),
                nn.Conv2d(half, half, 3, 1, 1, bias=False),
                nn.BatchNorm2d(half),
                nn.ReLU(),
                nn.Conv2d(half, width, 3, 1, 1, bias=False),
            )
        else:
            self.conv1 = nn.Conv2d(3, width, 7, 2, 3, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.maxpool = nn.MaxPool2d(3, 2, 1)
        before = width
        for stage, count in enumerate(stages, start=1):
            features = width * 2 ** (stage - 1)
            blocks = []
            for i in range(count):
                blocks.append(ResidualBlock(before, features, 2 if stage > 1 and i == 0 else 1, bottleneck, d))
                before = 4 * features if bottleneck else features
            self.add_module(f"layer{stage}", nn.Sequential(*blocks))
        self.stages = len(stages)
        self.fc = nn.Linear(before, classes)

    def forward(self, images):
        """Gives the map after the second stage, and the logits."""
        x = self.maxpool(torch.relu(self.bn1(self.conv1(images))))
        middle = None
        for stage in range(1, self.stages + 1):
            x = getattr(self, f"layer{stage}")(x)
            middle = x if stage == 2 else middle
        return middle, self.fc(x.mean(dim=(2, 3)))


class CifarBlock(nn.Module):
    """Two 3 x 3 convolutions; the shortcut takes every second pixel and pads a quarter of the channels on each side."""

    def __init__(self, before, width, stride):
        super().__init__()
        self.stride, self.pad = stride, (width - before) // 2
        self.conv1 = nn.Conv2d(before, width, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)

    def forward(self, x):
        y = self.bn2(self.conv2(torch.relu(self.bn1(self.conv1(x)))))
        shortcut = functional.pad(x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, self.pad, self.pad))
        return torch.relu(y + shortcut)


class CifarResNet(nn.Module):
    """The ResNet of depth 6n + 2 whose CIFAR-10 weights are published as .th files."""

    def __init__(self, blocks=2, width=8, classes=5):
        super().__init__()
        self.conv1 = nn.Conv2d(3, width, 3, 1, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        before = width
        for stage in (1, 2, 3):
            layers = []
            for i in range(blocks):
                layers.append(CifarBlock(before, width * 2 ** (stage - 1), 2 if stage > 1 and i == 0 else 1))
                before = width * 2 ** (stage - 1)
            self.add_module(f"layer{stage}", nn.Sequential(*layers))
        self.linear = nn.Linear(before, classes)

    def forward(self, images):
        """Gives the map after the second stage, and the logits."""
        middle = self.layer2(self.layer1(torch.relu(self.bn1(self.conv1(images)))))
        return middle, self.linear(self.layer3(middle).mean(dim=(2, 3)))
