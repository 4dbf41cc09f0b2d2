"""A folder is pushed to a stand-in of the hub, in processes of their own: the client reads its address at import."""

import os
import subprocess
import sys

import pytest
from stand_in_hub import TOKEN, serving

SCRIPT = """
import sys
from pathlib import Path
from jaxtl.deploy.hub import check_repository, push_folder
from jaxtl.errors import UserError
try:
    check_repository(sys.argv[2], public=len(sys.argv) > 3)
    print(push_folder(Path(sys.argv[1]), sys.argv[2], public=len(sys.argv) > 3))
except UserError as error:
    print(f"error: {error}")
"""


@pytest.fixture
def hub():
    with serving() as found:
        yield found


@pytest.fixture
def push(hub, tmp_path):
    """Pushes a folder of three files; returns what is said."""
    folder = tmp_path / "mine"
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    (folder / "README.md").write_text("---\nlicense: mit\n---\n")
    (folder / "model.safetensors").write_bytes(os.urandom(3000))

    def run(repository="org/flowers", *flags, token=TOKEN, **settings):
        found = subprocess.run(
            [sys.executable, "-c", SCRIPT, str(folder), repository, *flags],
            env={**os.environ, **hub.settings(tmp_path / "cache", token), **settings},
            capture_output=True,
            text=True,
            check=True,
            timeout=120,
        )
        assert len(found.stdout.splitlines()) == 1
        return found.stdout.strip()

    run.folder = folder
    return run


@pytest.mark.slow
def test_a_folder_becomes_a_private_repository(hub, push):
    assert push() == f"{hub.address}/org/flowers"
    pushed = hub.repositories["org/flowers"]
    assert {name: pushed[name] for name in pushed if name != ".gitattributes"} == {
        path.name: path.read_bytes() for path in push.folder.iterdir()
    }
    assert hub.facts["org/flowers"]["private"]
    # What is there is not written over.
    assert push().startswith("error: the hub has a repository org/flowers already, of 4 files: choose another name")
    # Whom an empty one shows itself to is not changed by pushing to it.
    hub.repositories["org/empty"], hub.facts["org/empty"] = {".gitattributes": b""}, {"private": False}
    assert push("org/empty").startswith(
        "error: the hub has an empty repository org/empty already, which is public, and a private one is asked for"
    )
    assert push("org/empty", "public") == f"{hub.address}/org/empty"
    assert push("org/others", "public") == f"{hub.address}/org/others"
    assert not hub.facts["org/others"]["private"]


def test_without_a_token_nothing_is_asked(hub, push):
    assert push(token="").startswith("error: there is no token of the hub: make one that may write at https://")
    assert hub.log == []


@pytest.mark.slow
@pytest.mark.parametrize(
    ("repository", "message"),
    [
        ("flowers", "'flowers' is no name of a repository: give ORG/NAME"),
        ("a/b/c", "'a/b/c' is no name of a repository: "),
        ("org/fl owers", "'org/fl owers' is no name of a repository: "),
    ],
)
def test_a_name_that_none_can_have_is_refused(hub, push, repository, message):
    assert push(repository).startswith(f"error: {message}")
    assert hub.log == []


@pytest.mark.slow
def test_a_wrong_token_and_a_broken_network_are_one_line_each(hub, push):
    said = push(token="hf_wrong")
    assert said.startswith("error: the hub does not know the token: make one that may write")
    assert hub.repositories == {}
    said = push(HF_ENDPOINT="http://127.0.0.1:9")
    assert said.startswith("error: the hub cannot be reached for org/flowers: ConnectError: ")
    said = push(HF_HUB_OFFLINE="1")
    assert said.startswith("error: the hub cannot be reached for org/flowers: OfflineModeIsEnabled: ")


@pytest.mark.slow
def test_what_the_hub_refuses_halfway_can_be_done_again(hub, push):
    hub.refusals["/api/repos/create"] = (403, "You don't have the rights to create a model under the namespace org.")
    again = f"{push.folder} is complete: `hf upload org/flowers {push.folder} --private` puts it there."
    said = push()
    assert said.startswith("error: the hub does not let this token write to org/flowers: ")
    assert "You don't have the rights" in said
    assert said.endswith(again)
    hub.refusals = {"/store/": (400, "the disk is full")}
    said = push()
    assert said.startswith("error: the hub refuses org/flowers (400): ")
    assert said.endswith(again)
    # The repository that it made is empty: the same command goes on.
    hub.refusals = {}
    assert push() == f"{hub.address}/org/flowers"
    assert "model.safetensors" in hub.repositories["org/flowers"]
