"""MaxViTs compute what torchvision's and timm's own compute."""

import pytest
from real_networks import CLASSES, check
from real_packages import timm, torchvision

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]


# Maps of 8, or of 8 and 4 places, in windows of 2: a grid joins places that lie 4 and 2 apart.
@pytest.mark.parametrize("stages", [1, 2])
def test_maxvit_of_torchvision(stages, tmp_path):
    torchvision()
    from torchvision.models import maxvit

    sizes = {"stem_channels": 8, "block_channels": [32, 64][:stages], "block_layers": [1, 2][:stages], "head_dim": 32}
    module = maxvit.MaxVit((32, 32), partition_size=2, stochastic_depth_prob=0.0, num_classes=CLASSES, **sizes)
    check(
        module,
        tmp_path,
        sizes=(32,),
        after="stage1.0" if stages == 2 else "stem",
        part="blocks.0" if stages == 2 else "stem",
    )


def test_maxvit_of_timm(tmp_path):
    timm()
    from timm.models import maxxvit

    sizes = {"embed_dim": (32, 64), "depths": (1, 2), "block_type": ("M", "M"), "stem_width": 16}
    config = maxxvit.MaxxVitCfg(**sizes, stem_bias=True, head_hidden_size=64, **maxxvit._tf_cfg())
    # Windows as large as the last map, as its own models have them.
    module = maxxvit.MaxxVit(config, img_size=32, num_classes=CLASSES, transformer_partition_ratio=8)
    check(module, tmp_path, sizes=(32,), after="stage1.0", part="stages.0")
