"""Finds the file behind a location: a path, a run, the hub, or an address that is downloaded once into a cache."""

import hashlib
import json
import os
import re
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from jaxtl.errors import UserError

WEIGHT_FILES = (
    "model.safetensors",
    "model.safetensors.index.json",
    "pytorch_model.bin",
    "pytorch_model.bin.index.json",
)
"""What a folder or a hub repository is searched for, in this order."""

_WEIGHT_SUFFIXES = (".safetensors", ".npz", ".pth", ".th", ".pt", ".bin", ".h5", ".keras")
_SIDE_FILES = ("config.json", "preprocessor_config.json")
_TIMEOUT = 10.0


@dataclass(frozen=True)
class Found:
    """A weight file on this machine, and what lies beside it.

    Attributes:
      path: the file, or the index of a sharded one.
      config: the content of config.json, if there is one.
      preprocessor: the content of preprocessor_config.json, if there is one.
      revision: the commit of a hub repository.
      license: what the hub's model card says.
    """

    path: Path
    config: dict[str, Any] = field(default_factory=dict)
    preprocessor: dict[str, Any] = field(default_factory=dict)
    revision: str = ""
    license: str = ""


def locate(location: str, *, cache_dir: str = "") -> Found:
    """Finds a weight file, and downloads it if it must.

    Args:
      location: a path to a file or a folder, hf:org/name[/file][@revision], https://... or gs://bucket/path.
      cache_dir: the folder for downloads; empty for the cache of huggingface_hub.

    Raises:
      UserError: there is no such file, it cannot be fetched, or its sha256 is not the one in its name.
    """
    if location.startswith("hf:"):
        return _locate_hub(location.removeprefix("hf:"), cache_dir)
    if location.startswith("gs://"):
        location = "https://storage.googleapis.com/" + location.removeprefix("gs://")
    if location.startswith(("https://", "http://", "file://")):
        return Found(_download(location, cache_dir))
    path = Path(location).expanduser()
    if not path.exists():
        raise UserError(f"no weight file {location!r}; give a path, hf:org/name, https://..., gs://... or run:WORKDIR.")
    if path.is_dir():
        path = _file_in(path, sorted(entry.name for entry in path.iterdir()), str(path))
    _verify(path, path.name)
    return Found(path, **_side_files(path.parent))


def _file_in(folder: Path, names: Sequence[str], what: str) -> Path:
    """Chooses the one weight file among the names in a folder or a repository."""
    usual = next((name for name in WEIGHT_FILES if name in names), None)
    if usual:
        return folder / usual
    others = [name for name in names if name.endswith(_WEIGHT_SUFFIXES)]
    safe = [name for name in others if name.endswith(".safetensors")]
    others = safe if len(safe) == 1 else others
    if len(others) != 1:
        found = f"several: {', '.join(others)}; name one of them" if others else "none"
        raise UserError(f"{what} should hold one weight file ({', '.join(WEIGHT_FILES)}, ...), but it holds {found}.")
    return folder / others[0]


def _side_files(folder: Path) -> dict[str, Any]:
    contents = []
    for name in _SIDE_FILES:
        try:
            contents.append(json.loads((folder / name).read_text()))
        except FileNotFoundError:
            contents.append({})
        except ValueError:
            raise UserError(f"{folder / name} is no valid JSON; fix it or take it away.") from None
    return {"config": contents[0], "preprocessor": contents[1]}


def _verify(path: Path, name: str) -> None:
    """Checks a file whose name ends in the start of its sha256, as torch.hub's do ("resnet50-0676ba61.pth")."""
    match = re.search(r"-([0-9a-f]{8,64})\.\w+$", name)
    if match is None:
        return
    with open(path, "rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    if not digest.startswith(match[1]):
        raise UserError(
            f"{path} has the sha256 {digest[: len(match[1])]}..., but its name says {match[1]}: it is damaged or "
            f"another file; get it again, or rename it if you trust it."
        )


def _cache(cache_dir: str) -> Path:
    from huggingface_hub import constants

    return Path(cache_dir or constants.HF_HUB_CACHE).expanduser()


def _locate_hub(name: str, cache_dir: str) -> Found:
    """Looks in the hub's cache first and asks the network only for what is not there."""
    repo, _, revision = name.partition("@")
    parts = repo.split("/")
    if len(parts) < 2 or not all(parts):
        raise UserError(f"hf:{name} is no repository; write hf:org/name, hf:org/name@revision or hf:org/name/file.")
    repo, wanted = "/".join(parts[:2]), "/".join(parts[2:])
    cache = _cache(cache_dir)
    snapshot = _cached_snapshot(cache, repo, revision or "main", wanted)
    license_name = ""
    if snapshot is None:
        snapshot, license_name = _fetch_snapshot(cache, repo, revision, wanted)
    names = sorted(str(path.relative_to(snapshot)) for path in snapshot.rglob("*"))
    path = snapshot / wanted if wanted else _file_in(snapshot, names, f"hf:{repo}")
    return Found(path, revision=snapshot.name, license=license_name or _card_license(snapshot), **_side_files(snapshot))


def _cached_snapshot(cache: Path, repo: str, revision: str, wanted: str) -> Path | None:
    """Gives the folder of a complete snapshot in the cache; the layout is the hub's documented one."""
    from huggingface_hub import try_to_load_from_cache

    for name in (wanted,) if wanted else WEIGHT_FILES:
        found = try_to_load_from_cache(repo, name, cache_dir=cache, revision=revision)
        if not isinstance(found, str):
            continue
        path = Path(found)
        if name.endswith(".index.json"):
            shards = set(json.loads(path.read_text())["weight_map"].values())
            if not all((path.parent / shard).exists() for shard in shards):
                continue
        return path.parents[name.count("/")]
    return None


def _fetch_snapshot(cache: Path, repo: str, revision: str, wanted: str) -> tuple[Path, str]:
    """Downloads the weight file, what it needs and the model card; unfinished downloads are resumed."""
    from huggingface_hub import HfApi, snapshot_download
    from huggingface_hub.errors import (
        HfHubHTTPError,
        OfflineModeIsEnabled,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    try:
        info = HfApi().model_info(repo, revision=revision or None, timeout=_TIMEOUT)
        names = [entry.rfilename for entry in info.siblings or []]
        if wanted and wanted not in names:
            raise UserError(f"hf:{repo} has no file {wanted!r}; it has {', '.join(names)}.")
        chosen = wanted or str(_file_in(Path(), names, f"hf:{repo}"))
        patterns = [chosen]
        if chosen.endswith(".index.json"):
            patterns.append("*" + Path(chosen.removesuffix(".index.json")).suffix)
        fetch = partial(snapshot_download, repo, cache_dir=cache, etag_timeout=_TIMEOUT)
        # The weights come last: where they are in the cache, what must be known about them is there too. The first
        # call is by name, since only then does the cache learn which commit the name stands for.
        folder = fetch(revision=revision or None, allow_patterns=[*_SIDE_FILES, "README.md"])
        folder = fetch(revision=Path(folder).name, allow_patterns=patterns)
        license_name = info.card_data.get("license", "") if info.card_data else ""
        return Path(folder), str(license_name or "")
    except RevisionNotFoundError:
        raise UserError(f"hf:{repo} has no revision {revision!r}.") from None
    except RepositoryNotFoundError:
        raise UserError(f"there is no model hf:{repo}, or it needs a login (`hf auth login`).") from None
    except (HfHubHTTPError, OfflineModeIsEnabled, OSError) as error:
        raise _unreachable(f"hf:{repo}", type(error).__name__, cache, wanted or WEIGHT_FILES[0]) from None
    except Exception as error:
        # The hub's HTTP client has error classes of its own, which change with its version.
        if type(error).__module__.split(".")[0] not in (
            "httpx",
            "httpx2",
            "httpcore",
            "httpcore2",
            "requests",
            "urllib3",
        ):
            raise
        raise _unreachable(f"hf:{repo}", type(error).__name__, cache, wanted or WEIGHT_FILES[0]) from None


def _unreachable(what: str, reason: str, cache: Path, name: str) -> UserError:
    return UserError(
        f"{what}: {name} is not in the cache {cache}, and the network did not give it ({reason}).\n"
        f"Bring {name} (with config.json and preprocessor_config.json, if it has them) here by hand and give the path "
        f"of its folder as the weights.",
        arguments=["weights"],
    )


def _card_license(snapshot: Path) -> str:
    card = snapshot / "README.md"
    match = re.search(r"^license:\s*(\S+)", card.read_text(errors="replace"), re.MULTILINE) if card.exists() else None
    return match[1] if match else ""


def _download(url: str, cache_dir: str) -> Path:
    """Downloads once; what an interrupted download left is continued."""
    cache = _cache(cache_dir) / "urls"
    name = Path(urllib.parse.unquote(urllib.parse.urlsplit(url).path)).name or "weights"
    target = cache / hashlib.sha256(url.encode()).hexdigest()[:16] / name
    if target.exists():
        return target
    part, version = (target.with_name(target.name + suffix) for suffix in (".part", ".etag"))
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        request = urllib.request.Request(url, headers=_continue_from(part, version))
        with urllib.request.urlopen(request, timeout=_TIMEOUT) as response:
            resumed = response.status == 206
            if not resumed:
                part.unlink(missing_ok=True)
                version.write_text(response.headers.get("ETag") or "")
            _save(response, part, resumed=resumed, name=name)
    except urllib.error.HTTPError as error:
        raise UserError(f"{url}: the server answered {error.code} {error.reason}; is the address right?") from None
    except (OSError, urllib.error.URLError) as error:
        raise _unreachable(url, str(getattr(error, "reason", error)), target.parent, name) from None
    try:
        _verify(part, name)
    except UserError:
        part.unlink()
        raise
    os.replace(part, target)
    return target


def _continue_from(part: Path, version: Path) -> dict[str, str]:
    """Gives the headers that ask for the rest of a file, or for all of it if the server has another by now."""
    have = part.stat().st_size if part.exists() else 0
    if not have:
        return {}
    known = version.read_text() if version.exists() else ""
    return {"Range": f"bytes={have}-"} | ({"If-Range": known} if known and not known.startswith("W/") else {})


def _save(response: Any, part: Path, *, resumed: bool, name: str) -> None:
    from tqdm import tqdm

    have = part.stat().st_size if resumed else 0
    expected = int(response.headers.get("Content-Length") or 0)
    with (
        open(part, "ab" if resumed else "wb") as file,
        tqdm(desc=name, total=have + expected or None, initial=have, unit="B", unit_scale=True, disable=None) as bar,
    ):
        while chunk := response.read(1 << 20):
            file.write(chunk)
            bar.update(len(chunk))
    if expected and part.stat().st_size != have + expected:
        raise OSError("the connection ended early; run it again to continue")
