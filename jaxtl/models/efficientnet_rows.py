"""What others call the arrays of an EfficientNet: the rows of its key tables; its family is efficientnet."""

from jaxtl.models.key_mapping import Rows

_LAYERS = ("expand", "depthwise", "squeeze", "project")


def torchvision_rows() -> Rows:
    """Returns the rows of torchvision, which numbers the layers of a block."""
    rows: list[tuple[str, str, str]] = [("features.0.0", "stem_conv", "conv"), ("features.0.1", "stem_bn", "batchnorm")]
    # Stage by stage: one row for all of them would name the arrays of an EfficientNet V2 too, and with fewer rows.
    for stage in range(1, 8):
        source, path = f"features.{stage}.{{i}}", f"stage{stage}.{{i}}"
        # The blocks of the first stage expand nothing, so that their layers count one less.
        for place, name in enumerate(_LAYERS[1:] if stage == 1 else _LAYERS):
            if name == "squeeze":
                rows += [(f"{source}.block.{place}.fc1", f"{path}/squeeze/reduce", "pixel")]
                rows += [(f"{source}.block.{place}.fc2", f"{path}/squeeze/expand", "pixel")]
            else:
                rows += [(f"{source}.block.{place}.0", f"{path}/{name}", "conv")]
                rows += [(f"{source}.block.{place}.1", f"{path}/{name}_bn", "batchnorm")]
    return (
        *rows,
        ("features.8.0", "last_conv", "conv"),
        ("features.8.1", "last_bn", "batchnorm"),
        ("classifier.1", "head", "dense"),
    )


_BLOCK, _PATH = "blocks.{s}.{i}.", "stage{s+1}.{i}/"
TIMM_ROWS = (
    ("conv_stem", "stem_conv", "conv"),
    ("bn1", "stem_bn", "batchnorm"),
    ("blocks.0.{i}.conv_dw", "stage1.{i}/depthwise", "conv"),
    ("blocks.0.{i}.bn1", "stage1.{i}/depthwise_bn", "batchnorm"),
    ("blocks.0.{i}.conv_pw", "stage1.{i}/project", "conv"),
    ("blocks.0.{i}.bn2", "stage1.{i}/project_bn", "batchnorm"),
    (_BLOCK + "conv_pw", _PATH + "expand", "conv"),
    (_BLOCK + "bn1", _PATH + "expand_bn", "batchnorm"),
    (_BLOCK + "conv_dw", _PATH + "depthwise", "conv"),
    (_BLOCK + "bn2", _PATH + "depthwise_bn", "batchnorm"),
    (_BLOCK + "se.conv_reduce", _PATH + "squeeze/reduce", "pixel"),
    (_BLOCK + "se.conv_expand", _PATH + "squeeze/expand", "pixel"),
    (_BLOCK + "conv_pwl", _PATH + "project", "conv"),
    (_BLOCK + "bn3", _PATH + "project_bn", "batchnorm"),
    ("conv_head", "last_conv", "conv"),
    ("bn2", "last_bn", "batchnorm"),
    ("classifier", "head", "dense"),
)


def keras_rows(depthwise: str, letters: str) -> Rows:
    """Returns Keras' rows, where the blocks of a stage have letters: "block2a_expand_conv".

    Args:
      depthwise: what the depthwise convolution of a block is called, such as "dwconv".
      letters: one for each block of the longest stage.
    """
    rows: list[tuple[str, str, str]] = [("stem_conv", "stem_conv", "conv"), ("stem_bn", "stem_bn", "batchnorm")]
    for i, letter in enumerate(letters):
        source, path = f"block{{s}}{letter}_", f"stage{{s}}.{i}/"
        rows += [
            (source + "expand_conv", path + "expand", "conv"),
            (source + "expand_bn", path + "expand_bn", "batchnorm"),
            (source + depthwise, path + "depthwise", "depthwise"),
            (source + "bn", path + "depthwise_bn", "batchnorm"),
            (source + "se_reduce", path + "squeeze/reduce", "pixel"),
            (source + "se_expand", path + "squeeze/expand", "pixel"),
            (source + "project_conv", path + "project", "conv"),
            (source + "project_bn", path + "project_bn", "batchnorm"),
        ]
    last = (("top_conv", "last_conv", "conv"), ("top_bn", "last_bn", "batchnorm"), ("predictions", "head", "dense"))
    return (*rows, *last)


def huggingface_rows(depths: tuple[int, ...]) -> Rows:
    """Returns the rows of transformers, which numbers the blocks of all stages in a row."""
    rows: list[tuple[str, str, str]] = [
        ("embeddings.convolution", "stem_conv", "conv"),
        ("embeddings.batchnorm", "stem_bn", "batchnorm"),
        ("encoder.top_conv", "last_conv", "conv"),
        ("encoder.top_bn", "last_bn", "batchnorm"),
        ("classifier", "head", "dense"),
    ]
    places = [(stage, i) for stage, depth in enumerate(depths, start=1) for i in range(depth)]
    for number, (stage, i) in enumerate(places):
        source, path = f"encoder.blocks.{number}", f"stage{stage}.{i}"
        rows += [
            (f"{source}.expansion.expand_conv", f"{path}/expand", "conv"),
            (f"{source}.expansion.expand_bn", f"{path}/expand_bn", "batchnorm"),
            (f"{source}.depthwise_conv.depthwise_conv", f"{path}/depthwise", "conv"),
            (f"{source}.depthwise_conv.depthwise_norm", f"{path}/depthwise_bn", "batchnorm"),
            (f"{source}.squeeze_excite.reduce", f"{path}/squeeze/reduce", "pixel"),
            (f"{source}.squeeze_excite.expand", f"{path}/squeeze/expand", "pixel"),
            (f"{source}.projection.project_conv", f"{path}/project", "conv"),
            (f"{source}.projection.project_bn", f"{path}/project_bn", "batchnorm"),
        ]
    return tuple(rows)
