"""LiteRT's interpreter computes what JAX does, in processes that find its packages: the environment here has none."""

import json
import subprocess
import sys

import numpy as np
import pytest
from real_packages import litert

from jaxtl.deploy.export import formats
from jaxtl.deploy.export.tflite import TOLERANCES, Measured, _verdict, require_alike
from jaxtl.deploy.export.verification import require_same
from jaxtl.errors import UserError

PROGRAM = """
import json, sys
from pathlib import Path
import numpy as np
from programs import program as draw
from jaxtl.deploy.export import litert
from jaxtl.deploy.export.program import Request, normalized
from jaxtl.deploy.export.provenance import Provenance
from jaxtl.deploy.export.tflite import run_tflite, save_tflite
from jaxtl.deploy.export.verification import compare, draw_views
from jaxtl.errors import UserError

def request(program, dtype="float32", with_pixels=False, **more):
    views = draw_views(program.pixels.size, 3, 8)
    return Request(Provenance("run", 3, program.name), views, "drawn images", dtype, with_pixels, **more)
"""


def run(script, folder, *arguments):
    """Runs a script after PROGRAM in a folder; returns what it printed, and what it said besides."""
    found = subprocess.run(
        [sys.executable, "-c", PROGRAM + script, *arguments],
        env=litert(),
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
        timeout=600,
    )
    assert found.returncode == 0, found.stderr
    return found.stdout, found.stderr


FAMILIES = """
found = {}
for name, size in json.loads(sys.argv[1]):
    program = draw(name, size)
    views = draw_views(size, 3, 4)
    opened = litert.open_model(litert.convert(program, with_pixels=False))
    logits = opened.logits(normalized(views, program.pixels))
    found[name] = compare(logits, program.reference(views).logits).share
print(json.dumps(found))
"""


@pytest.mark.slow
def test_the_interpreter_computes_what_jax_does(tmp_path):
    small = "image_size=32,patch=8,width=32,depth=2,heads=4"
    families = [
        (f"vit_s16:{small}", 32),
        (f"vit_s16:{small},block_heads=2-1", 32),
        (f"deit_s16_distilled:{small}", 32),
        ("resnet18:stages=1-1-1-1,width=16", 64),
        ("resnet20_cifar", 32),
        ("mobilenet_v2", 64),
        ("mobilenet_v3_small", 64),
        ("efficientnet_b0", 64),
        ("convnext_atto", 64),
        ("swin_t:image_size=32,blocks=2-1,heads=1-2,width=8,window=4", 32),
        ("densenet121:growth=8", 64),
        ("googlenet", 64),
        ("alexnet", 80),
    ]
    out, _ = run(FAMILIES, tmp_path, json.dumps(families))
    shares = json.loads(out)
    assert list(shares) == [name for name, _ in families]
    assert {name: share for name, share in shares.items() if not share < 1e-4} == {}


DTYPES = """
program = draw("resnet18:stages=1-1-1-1,width=16", 64)
train = draw_views(64, 3, 12)
for dtype, with_pixels in [("float32", False), ("float16", True), ("int8_dynamic", False), ("int8_static", True)]:
    val = (train, program.reference(train).logits.argmax(1))
    path = Path(dtype + ".tflite")
    words = save_tflite(path, program, request(program, dtype, with_pixels, train=train, val=val))
    reference = program.reference(train)
    comparison = compare(run_tflite(path).logits(train), reference.logits)
    print(json.dumps([dtype, path.stat().st_size, comparison.share, words.splitlines()]))
"""


@pytest.mark.slow
def test_fewer_bits_are_smaller_and_as_right_as_they_say(tmp_path):
    out, err = run(DTYPES, tmp_path)
    assert "INFO" not in err
    rows = {row[0]: row[1:] for row in map(json.loads, out.splitlines())}
    sizes = {dtype: row[0] for dtype, row in rows.items()}
    assert sizes["float16"] < 0.55 * sizes["float32"]
    assert max(sizes["int8_dynamic"], sizes["int8_static"]) < 0.35 * sizes["float32"]
    bounds = {"float32": 1e-5, "float16": 2e-3, "int8_dynamic": 0.1, "int8_static": 0.3}
    assert {dtype: row[1] for dtype, row in rows.items() if not row[1] < bounds[dtype]} == {}
    for dtype, (size, _, words) in rows.items():
        assert words[0].startswith("LiteRT 2.3.0, float32, drawn images: on 8 images the largest difference of logits")
        row = next(line for line in words if line.startswith(dtype) and "%" in line)
        assert f"{size / 1e6:.2f}" in row.split()
        assert any(line.startswith("float32 ") and line.endswith("100.0 %") for line in words)


REFUSED = """
program = draw("resnet18:stages=1-1,width=8", 32)
right, other = litert.convert, draw("resnet18:stages=1-1,width=8", 32)
other.variables["params"]["head"]["kernel"] = other.variables["params"]["head"]["kernel"] + 0.1

def attempt(**more):
    try:
        save_tflite(Path("x.tflite"), program, request(program, **more))
    except UserError as error:
        print(error)

attempt(dtype="int8_static")
import jaxtl.deploy.export.tflite as tflite
tflite.convert = lambda given, with_pixels: right(other, with_pixels=with_pixels)
attempt()

class Odd:
    name, shape = "odd", (8, 8, 3)
    def logits(self, images, with_pixels):
        import jax.numpy as jnp
        return jnp.linalg.qr(images[0, :, :, 0])[0]

try:
    right(Odd(), with_pixels=False)
except UserError as error:
    print(error)
try:
    litert.open_model(b"no model")
except UserError as error:
    print(error)
print(sorted(path.name for path in Path().iterdir()))
"""


@pytest.mark.slow
def test_what_is_wrong_is_a_line_and_no_file(tmp_path):
    out, _ = run(REFUSED, tmp_path)
    without, wrong, unknown, broken, left = out.splitlines()
    assert without.startswith("int8_static finds the scales of activations with images of train, and the run's own are")
    assert wrong.startswith(
        "LiteRT 2.3.0 computes otherwise than JAX: on 8 images the largest difference of logits is "
    )
    assert unknown == (
        "odd cannot be converted: LiteRT has no operation for stablehlo.custom_call. Nothing was written."
    )
    assert broken.startswith("LiteRT cannot open the model: ")
    assert left == "[]"


def test_a_missing_package_is_told_with_the_line_that_installs_it():
    if "ai_edge_litert" in sys.modules:
        pytest.skip("LiteRT is installed here")
    with pytest.raises(UserError, match=r"LiteRT needs \w+, which is not installed: pip install --no-deps litert-conv"):
        formats()["tflite"].require()


@pytest.mark.parametrize(
    ("dtype", "size", "right", "notes"),
    [
        ("int8_static", 27, 0.91, []),
        ("int8_static", 27, 0.89, ["note: int8_static loses 2.0 points of accuracy on val: try int8_dynamic"]),
        ("int8_dynamic", 40, 0.95, ["note: int8_dynamic is 40% of the size of float32, more than a quarter"]),
        ("float16", 50, 0.5, []),
    ],
)
def test_int8_that_is_not_what_it_is_for_is_told(dtype, size, right, notes):
    assert _verdict([Measured("float32", 100, 3.0, 0.91), Measured(dtype, size, 1.0, right)]) == notes


def test_a_loss_that_nobody_can_measure_is_told():
    (note,) = _verdict([Measured("float32", 100, 3.0, None), Measured("int8_dynamic", 27, 1.0, None)])
    assert note == "note: what int8_dynamic costs in accuracy is not measured, since the run's images are not here"


def test_a_model_that_tells_nothing_apart_passes_in_no_dtype():
    expected = np.array([[4.0, -1.0], [0.5, 2.0]])
    for same in (np.zeros_like(expected), np.broadcast_to(expected.mean(0), expected.shape), np.full((2, 2), np.nan)):
        for dtype in TOLERANCES:
            with pytest.raises(UserError, match="computes otherwise than JAX"):
                require_same(same, expected, program="LiteRT", tolerance=TOLERANCES[dtype])
        with pytest.raises(UserError, match="LiteRT computes otherwise than JAX: on 2 images logits typically"):
            require_alike(same, expected, program="LiteRT")


def test_int8_goes_by_what_its_logits_typically_differ_by():
    expected = np.random.default_rng(0).normal(0, 5, (20, 10))
    found = expected + np.random.default_rng(1).normal(0, 1, expected.shape)
    found[3, 4] += 0.6 * np.abs(expected).max()  # A single one may be far off.
    said = require_alike(found, expected, program="LiteRT")
    typical = np.sqrt(((found - expected) ** 2).mean() / ((expected - expected.mean(1, keepdims=True)) ** 2).mean())
    assert said.startswith(f"on 20 images logits typically differ by {typical:.2g} of what tells classes apart (0.5 is")
