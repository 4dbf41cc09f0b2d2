"""One small model of each family."""

from jaxtl import models

# The first of each family; smaller ones of those that take long to trace.
QUICK = {
    "densenet121": "densenet121:layers=1-1-1-1",
    "vit_r26_s32": "vit_r26_s32:stages=1-1-1-1,depth=2",
    "efficientnet_v2_s": "efficientnet_v2_s:depths=1-1-1-1-1-1",
    "efficientnet_b0": "efficientnet_b0:depths=1-1-1-1-1-1-1",
    "deit_ti16_distilled": "deit_ti16_distilled:depth=2",
    "dinov2_s14": "dinov2_s14:depth=2",
    "vit_ti16": "vit_ti16:depth=2",
    "mobilenet_v2": "mobilenet_v2:depths=1-1-1-1-1-1-1",
    "bit_r50x1": "bit_r50x1:stages=1-1-1-1",
    "resnet18": "resnet18:stages=1-1-1-1",
    "convnext_atto": "convnext_atto:blocks=1-1-1-1",
    "resnet20_cifar": "resnet20_cifar:blocks=1",
    "clip_b16": "clip_b16:depth=2",
    "maxvit_t": "maxvit_t:blocks=1-1",
    "swin_t": "swin_t:blocks=1-1-1-1",
}
FIRST = [next(iter(family.VARIANTS)) for family in models.families()]
FAMILIES = [QUICK.get(name, name) for name in FIRST]
FAST = ("vgg11", "resnet18:stages=1-1-1-1", "swin_t:blocks=1-1-1-1", "vit_ti16:depth=2")
