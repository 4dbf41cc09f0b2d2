"""Locations are found on disk, in the hub's cache and over HTTP, and each failure says what to bring where."""

import hashlib
import http.server
import json
import threading
import time
from pathlib import Path

import huggingface_hub
import numpy as np
import pytest
from safetensors.numpy import save_file

from jaxtl.errors import UserError
from jaxtl.pretrained import locate as module
from jaxtl.pretrained import open_weights
from jaxtl.pretrained.locate import locate


@pytest.fixture
def server(tmp_path):
    """Serves a folder on loopback, with the parts of a file that a client asks for; yields (address, folder, log)."""
    folder, log = tmp_path / "served", []
    folder.mkdir()

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            log.append((self.path, self.headers.get("Range")))
            path = folder / self.path.lstrip("/")
            if not path.is_file():
                self.send_error(404)
                return
            content, first = path.read_bytes(), 0
            version = f'"{hashlib.sha256(content).hexdigest()[:8]}"'
            if self.headers.get("Range") and self.headers.get("If-Range") in (None, version):
                first = int(self.headers["Range"].removeprefix("bytes=").rstrip("-"))
            self.send_response(206 if first else 200)
            self.send_header("Content-Length", str(len(content) - first))
            self.send_header("ETag", version)
            self.end_headers()
            # A file of this name breaks off half way, once.
            if "breaks" in self.path and not self.headers.get("Range"):
                self.wfile.write(content[: len(content) // 2])
                return
            self.wfile.write(content[first:])

        def log_message(self, *arguments):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as running:
        thread = threading.Thread(target=running.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{running.server_port}", folder, log
        running.shutdown()
        thread.join()


def test_a_download_is_kept(server, tmp_path):
    address, folder, log = server
    (folder / "a.npz").write_bytes(b"content")
    for _ in range(2):
        found = locate(f"{address}/a.npz", cache_dir=str(tmp_path / "cache"))
        assert found.path.read_bytes() == b"content"
    assert log == [("/a.npz", None)]


def test_a_broken_download_is_continued(server, tmp_path):
    address, folder, log = server
    content = np.random.default_rng(0).bytes(3_000_000)
    (folder / "breaks.npz").write_bytes(content)
    with pytest.raises(UserError, match="the connection ended early"):
        locate(f"{address}/breaks.npz", cache_dir=str(tmp_path / "cache"))
    found = locate(f"{address}/breaks.npz", cache_dir=str(tmp_path / "cache"))
    assert found.path.read_bytes() == content
    assert log == [("/breaks.npz", None), ("/breaks.npz", "bytes=1500000-")]


def test_a_file_that_changed_meanwhile_is_not_joined_to_its_older_half(server, tmp_path):
    address, folder, _ = server
    (folder / "breaks.npz").write_bytes(b"old " * 1000)
    with pytest.raises(UserError, match="the connection ended early"):
        locate(f"{address}/breaks.npz", cache_dir=str(tmp_path / "cache"))
    (folder / "breaks.npz").write_bytes(b"new " * 900)
    found = locate(f"{address}/breaks.npz", cache_dir=str(tmp_path / "cache"))
    assert found.path.read_bytes() == b"new " * 900


def test_a_download_must_have_the_sha256_of_its_name(server, tmp_path):
    address, folder, _ = server
    digest = hashlib.sha256(b"right").hexdigest()[:8]
    (folder / f"resnet-{digest}.pth").write_bytes(b"wrong")
    with pytest.raises(UserError, match=f"its name says {digest}"):
        locate(f"{address}/resnet-{digest}.pth", cache_dir=str(tmp_path / "cache"))
    # What was refused is not taken from the cache the next time.
    (folder / f"resnet-{digest}.pth").write_bytes(b"right")
    assert locate(f"{address}/resnet-{digest}.pth", cache_dir=str(tmp_path / "cache")).path.read_bytes() == b"right"


def test_a_missing_address_is_an_error(server, tmp_path):
    address, _, _ = server
    with pytest.raises(UserError, match="the server answered 404"):
        locate(f"{address}/none.npz", cache_dir=str(tmp_path))


def test_an_unreachable_address_says_what_to_bring(tmp_path):
    with pytest.raises(UserError, match=r"(?s)x\.npz is not in the cache .*by hand") as caught:
        locate("http://127.0.0.1:9/x.npz", cache_dir=str(tmp_path))
    assert str(tmp_path) in str(caught.value)


def test_google_storage_is_reached_over_https(monkeypatch):
    asked = []
    monkeypatch.setattr(module, "_download", lambda url, cache_dir: asked.append(url) or Path("x.npz"))
    locate("gs://vit_models/augreg/Ti_16.npz")
    assert asked == ["https://storage.googleapis.com/vit_models/augreg/Ti_16.npz"]


def _repository(cache: Path, files: dict[str, bytes], commit: str = "c" * 40) -> None:
    """Lays files as huggingface_hub lays them."""
    root = cache / "models--org--name"
    (root / "refs").mkdir(parents=True)
    (root / "refs" / "main").write_text(commit)
    for name, content in files.items():
        path = root / "snapshots" / commit / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)


@pytest.fixture
def no_network(monkeypatch):
    def refuse(*arguments, **options):
        raise AssertionError("asked the network")

    monkeypatch.setattr(huggingface_hub.HfApi, "model_info", refuse)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", refuse)


@pytest.mark.usefixtures("no_network")
def test_a_warm_cache_is_used_without_the_network(tmp_path):
    card = b"---\nlicense: apache-2.0\n---\n# Model"
    _repository(tmp_path, {"model.safetensors": b"x", "config.json": b'{"model_type": "vit"}', "README.md": card})
    for location in ("hf:org/name", f"hf:org/name@{'c' * 40}", "hf:org/name/model.safetensors"):
        found = locate(location, cache_dir=str(tmp_path))
        assert found.path.name == "model.safetensors"
        assert (found.config, found.revision, found.license) == ({"model_type": "vit"}, "c" * 40, "apache-2.0")


@pytest.mark.usefixtures("no_network")
def test_an_incomplete_set_of_shards_in_the_cache_is_not_taken(tmp_path):
    index = json.dumps({"weight_map": {"a": "1.safetensors", "b": "2.safetensors"}}).encode()
    _repository(tmp_path, {"model.safetensors.index.json": index, "1.safetensors": b"x"})
    with pytest.raises(AssertionError, match="asked the network"):
        locate("hf:org/name", cache_dir=str(tmp_path))


def test_a_cold_cache_offline_ends_within_seconds_and_says_what_is_missing(tmp_path, monkeypatch):
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    start = time.monotonic()
    with pytest.raises(UserError) as caught:
        locate("hf:org/name", cache_dir=str(tmp_path))
    assert time.monotonic() - start < 5
    message = str(caught.value)
    assert "model.safetensors is not in the cache" in message
    assert str(tmp_path) in message
    assert caught.value.arguments == ("weights",)
    assert "give the path of its folder as the weights" in message


@pytest.mark.parametrize("location", ["hf:name", "hf:", "hf:/x", "hf:org//x"])
def test_a_malformed_repository_is_an_error(location, tmp_path):
    with pytest.raises(UserError, match="is no repository"):
        locate(location, cache_dir=str(tmp_path))


def test_a_folder_holds_its_facts_beside_its_weights(tmp_path):
    save_file({"a": np.ones(2)}, tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text('{"model_type": "vit"}')
    assert locate(str(tmp_path)).config == {"model_type": "vit"}
    assert locate(str(tmp_path / "model.safetensors")).config == {"model_type": "vit"}
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(UserError, match=r"config\.json is no valid JSON"):
        locate(str(tmp_path))


def test_a_folder_with_several_or_no_weight_files_is_an_error(tmp_path):
    with pytest.raises(UserError, match="it holds none"):
        locate(str(tmp_path))
    for name in ("a.npz", "b.npz"):
        (tmp_path / name).write_bytes(b"x")
    with pytest.raises(UserError, match=r"several: a\.npz, b\.npz; name one"):
        locate(str(tmp_path))
    (tmp_path / "mine.safetensors").write_bytes(b"x")
    assert locate(str(tmp_path)).path.name == "mine.safetensors"
    (tmp_path / "other.safetensors").write_bytes(b"x")
    with pytest.raises(UserError, match=r"several: a\.npz, b\.npz, mine\.safetensors, other\.safetensors"):
        locate(str(tmp_path))
    (tmp_path / "model.safetensors").write_bytes(b"x")
    assert locate(str(tmp_path)).path.name == "model.safetensors"


def test_a_missing_path_is_an_error(tmp_path):
    with pytest.raises(UserError, match="no weight file"):
        locate(str(tmp_path / "none"))


def test_a_damaged_file_with_its_sha256_in_the_name_is_an_error(shared, tmp_path):
    path = tmp_path / "resnet20-12fca82f.th"
    content = (shared / "weights" / "cifar10_resnet" / path.name).read_bytes()
    path.write_bytes(content)
    assert locate(str(path)).path == path
    path.write_bytes(content[:-1] + b"x")
    with pytest.raises(UserError, match="its name says 12fca82f"):
        locate(str(path))


def test_a_damaged_file_in_the_cache_of_the_hub_is_found(tmp_path):
    content = tmp_path / "content.safetensors"
    save_file(
        {"params/head/kernel": np.ones((2, 2))}, content, metadata={"jaxtl": '{"model": "vit_s16", "num_classes": 2}'}
    )
    digest = hashlib.sha256(content.read_bytes()).hexdigest()
    blob = tmp_path / "models--org--name" / "blobs" / digest
    blob.parent.mkdir(parents=True)
    content.rename(blob)
    snapshot = blob.parents[1] / "snapshots" / ("c" * 40)
    snapshot.mkdir(parents=True)
    (snapshot / "model.safetensors").symlink_to(blob)
    opened = open_weights(f"hf:org/name@{'c' * 40}", cache_dir=str(tmp_path))
    assert opened.sha256 == {"model.safetensors": digest}
    blob.write_bytes(blob.read_bytes()[:-1] + b"x")
    with pytest.raises(UserError, match="is damaged: its sha256 is not its name"):
        _ = open_weights(f"hf:org/name@{'c' * 40}", cache_dir=str(tmp_path)).sha256
