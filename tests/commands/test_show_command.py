import numpy as np
import pytest
from PIL import Image


def csv_of(pictures, folder):
    lines = [f"{path},{path.parent.name}" for path in sorted(pictures.glob("*/*/*.png"))]
    (folder / "pictures.csv").write_text("\n".join(["image,label", *lines]) + "\n")
    return f"csv:{folder / 'pictures.csv'}"


def npz_of(pictures, folder):
    paths = sorted(pictures.glob("train/*/*.png"))
    images = np.stack([np.asarray(Image.open(path)) for path in paths])
    labels = np.array([("blue", "green", "red").index(path.parent.name) for path in paths])
    np.savez(
        folder / "pictures.npz", x_train=images[::2], y_train=labels[::2], x_test=images[1::2], y_test=labels[1::2]
    )
    return f"npz:{folder / 'pictures.npz'}"


SOURCES = {"folder": lambda pictures, folder: f"folder:{pictures}", "csv": csv_of, "npz": npz_of}


@pytest.mark.parametrize("kind", SOURCES)
def test_sheets_of_every_kind_of_source(jaxtl, config_file, pictures, tmp_path, kind):
    status, out, err = jaxtl(
        "show",
        f"--config={config_file}",
        "--workdir=shown",
        f"--config.data.source={SOURCES[kind](pictures, tmp_path)}",
        "--config.augment.preset=medium",
        "--config.augment.rotate=0",
    )
    assert (status, err) == (0, "")
    assert out.splitlines() == [
        "note: augment.preset 'medium' is given, so augment.scale (0.5, 1.0) of the config does not count",
        "images of 16 x 16 pixels, as vit_petals:depth=2,width=16,heads=2,patch=8 sees them before normalisation",
        "augment.preset medium sets scale 0.25 to 1, color_jitter 0.2, erase 0.1; as written stay rotate 0",
        *(f"shown/show_{name}.png" for name in ("train", "eval", "one")),
    ]
    sheet = np.asarray(Image.open(tmp_path / "shown" / "show_train.png"))
    assert sheet.shape[1] == 5 * (112 + 8) + 8
    assert sorted(path.name for path in (tmp_path / "shown").iterdir()) == [
        f"show_{name}.png" for name in ("eval", "one", "train")
    ]


def test_what_is_wrong_is_told_and_no_folder_is_made(jaxtl, config_file, pictures, tmp_path):
    source = f"--config.data.source=folder:{pictures}"
    flags = (f"--config={config_file}", source, "--config.augment.policy=randaug", "--config.augment.erase=-1")
    status, out, err = jaxtl("show", "--workdir=shown", *flags)
    assert (status, out) == (1, "")
    assert err.splitlines() == [
        "error: augment.erase is -1.0, but it must be a probability, between 0 and 1.",
        "augment.policy is 'randaug', but it must be one of: '', 'randaugment', 'trivialaugment', 'autoaugment'; "
        "did you mean 'randaugment'?",
    ]
    broken = pictures / "train" / "red" / "000.png"
    for path in (pictures / "train").glob("*/*.png"):
        path.write_bytes(b"no picture")
    status, _, err = jaxtl("show", "--workdir=shown", *flags[:2])
    assert status == 1
    assert "is no image that Pillow reads: it begins with 'no picture'" in err
    assert str(broken.parent.parent) in err
    assert not (tmp_path / "shown").exists()
