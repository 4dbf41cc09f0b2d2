"""Which files are images, and what those are that would be images if something were installed."""

import os
from collections.abc import Sequence
from functools import cache
from pathlib import Path

from PIL import Image

from jaxtl.data.remarks import few

# Pillow knows these but cannot decode them by itself; for EPS it would run Ghostscript on a stranger's program.
_NOT_BY_ITSELF = {"BUFR", "EPS", "GRIB", "HDF5", "MPEG", "WMF"}
# Photographs that Pillow may not read, by extension, and what reads them.
_HEIF = "pip install 'jaxtl[heif]'"
_CONVERT = "save it as JPEG or PNG"
_KINDS = {
    **dict.fromkeys((".heic", ".heif", ".hif"), "HEIC"),
    ".avif": "AVIF",
    ".jxl": "JPEG XL",
    **dict.fromkeys((".cr2", ".cr3", ".nef", ".arw", ".dng", ".orf", ".rw2", ".raf"), "a camera's raw file"),
}
_REMEDIES = {"HEIC": _HEIF, "AVIF": "pip install 'pillow>=11.3', whose wheels read it"}
# Brands of the container that HEIC and AVIF share (ISO/IEC 23008-12), which stand at byte 8.
_BRANDS = {
    **dict.fromkeys((b"heic", b"heix", b"hevc", b"heim", b"heis", b"mif1", b"msf1"), "HEIC"),
    **dict.fromkeys((b"avif", b"avis"), "AVIF"),
}


@cache
def formats() -> tuple[str, ...]:
    """Returns the names of the formats that are read, the usual ones first, because Pillow tries them in order."""
    Image.init()
    try:
        import pillow_heif
    except ImportError:
        pass
    else:
        pillow_heif.register_heif_opener()
    usual = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF")
    return (*usual, *sorted(set(Image.OPEN) - {*usual, *_NOT_BY_ITSELF}))


@cache
def _extensions() -> frozenset[str]:
    known = formats()
    return frozenset(extension for extension, name in Image.registered_extensions().items() if name in known)


def is_image(path: Path) -> bool:
    """Tells whether a file is an image that is read here: by its extension, or else by how it begins."""
    if path.suffix.lower() in _extensions():
        return True
    # Only the few files with a foreign extension, or none, are worth opening here.
    try:
        with Image.open(path, formats=formats()):
            return True
    except Exception:
        return False


def is_photograph(path: Path) -> bool:
    """Tells by the extension whether a file is a photograph, if in a format that nothing here reads."""
    return path.suffix.lower() in _KINDS


def kind_of_bytes(encoded: bytes) -> str:
    """Returns what a file is that Pillow does not read here, "HEIC" or "AVIF" with what to do; "" if unknown."""
    kind = _BRANDS.get(encoded[8:12], "") if encoded[4:8] == b"ftyp" else ""
    return f"{kind}: {_REMEDIES[kind]}" if kind else ""


def describe_others(names: Sequence[str], shown: int = 10) -> str:
    """Says of files that are not read how many of each kind there are, and their names.

    Args:
      names: at least one.
      shown: names of each kind before the rest is only counted.
    """
    by_kind: dict[str, list[str]] = {}
    for name in names:
        extension = os.path.splitext(name)[1].lower()
        kind = _KINDS.get(extension, "")
        by_kind.setdefault(kind or extension or "without extension", []).append(name)
    parts = []
    for kind, there in by_kind.items():
        advice = f": {_REMEDIES.get(kind, _CONVERT)}" if kind in _KINDS.values() else ""
        parts.append(f"{len(there)} {kind} ({few(there, shown)}){advice}")
    return "; ".join(parts)
