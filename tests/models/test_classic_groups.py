"""The groups of the classic networks are what a person would draw, input to head."""

import pytest

from jaxtl import models

GROUPS = {
    "lenet5": "conv1 conv2 fc1 fc2 head",
    "alexnet": "conv1 conv2 conv3 conv4 conv5 fc1 fc2 head",
    "vgg16": "block1 block2 block3 block4 block5 fc1 fc2 head",
    "googlenet": "stem inception3a inception3b inception4a aux1 inception4b inception4c inception4d aux2 inception4e "
    "inception5a inception5b head",
    "inception_v3": "stem mixed5b mixed5c mixed5d mixed6a mixed6b mixed6c mixed6d mixed6e aux mixed7a mixed7b mixed7c "
    "head",
    "mobilenet_v2": "stem stage1.0 stage2.0 stage2.1 stage3.0 stage3.1 stage3.2 stage4.0 stage4.1 stage4.2 stage4.3 "
    "stage5.0 stage5.1 stage5.2 stage6.0 stage6.1 stage6.2 stage7.0 last head",
    "mobilenet_v3_small": "stem stage1.0 stage2.0 stage2.1 stage3.0 stage3.1 stage3.2 stage4.0 stage4.1 stage5.0 "
    "stage5.1 stage5.2 last fc head",
    "convnext_t": "stem stage1.0 stage1.1 stage1.2 stage2.0 stage2.1 stage2.2 stage3.0 stage3.1 stage3.2 stage3.3 "
    "stage3.4 stage3.5 stage3.6 stage3.7 stage3.8 stage4.0 stage4.1 stage4.2 head",
    "densenet121:layers=1-2": "stem block1.0 transition1 block2.0 block2.1 norm head",
}


@pytest.mark.parametrize("name", GROUPS)
def test_groups(name):
    assert [group for group, _ in models.build(name, num_classes=2).groups()] == GROUPS[name].split()
