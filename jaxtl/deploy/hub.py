"""Puts a folder on the Hugging Face hub, as a repository of its own, private unless asked otherwise."""

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from jaxtl.errors import UserError, first_line

_TOKENS = "https://huggingface.co/settings/tokens"
_SECONDS = 10.0
# The hub's HTTP client has error classes of its own, which change with its version.
_CLIENTS = ("httpx", "httpx2", "httpcore", "httpcore2", "requests", "urllib3")


def check_repository(repository: str, *, public: bool = False) -> None:
    """Passes if a folder can be pushed there: there is a token that the hub knows, and no such repository yet.

    The token is $HF_TOKEN, else that of `hf auth login`. A repository that holds nothing is taken, too.

    Args:
      repository: "org/name".
      public: whether everybody is to see it: of a repository that is there, that is not changed.

    Raises:
      UserError: otherwise, or the hub cannot be reached.
    """
    from huggingface_hub import HfApi, get_token
    from huggingface_hub.errors import HFValidationError, RepositoryNotFoundError
    from huggingface_hub.utils import validate_repo_id

    try:
        validate_repo_id(repository)
    except HFValidationError as error:
        raise UserError(f"{repository!r} is no name of a repository: {first_line(error)}") from None
    if repository.count("/") != 1:
        raise UserError(
            f"{repository!r} is no name of a repository: give ORG/NAME, ORG being you or your organisation."
        )
    if not get_token():
        raise UserError(
            f"there is no token of the hub: make one that may write at {_TOKENS}, for $HF_TOKEN or `hf auth login`."
        )
    api = HfApi()
    with _asking(repository):
        try:
            # This call alone knows a time limit: it comes first.
            info = api.model_info(repository, timeout=_SECONDS)
        except RepositoryNotFoundError:
            info = None
        api.whoami()
    files = [entry.rfilename for entry in (info.siblings if info else None) or ()]
    if set(files) - {".gitattributes"}:
        raise UserError(
            f"the hub has a repository {repository} already, of {len(files)} files: choose another name, or export "
            f"without pushing and add a commit to it with `hf upload {repository} FOLDER`."
        )
    if info is not None and bool(info.private) == public:
        seen, wanted = ("private", "public") if info.private else ("public", "private")
        raise UserError(
            f"the hub has an empty repository {repository} already, which is {seen}, and a {wanted} one is asked for: "
            "choose another name, or change it in its settings."
        )


def push_folder(folder: Path, repository: str, *, public: bool = False) -> str:
    """Makes a repository and uploads the files of a folder; returns its address.

    Args:
      folder: of files.
      repository: "org/name", as `check_repository` takes it.
      public: whether everybody may see it.

    Raises:
      UserError: the hub refuses it, or cannot be reached any more; the folder stays as it is.
    """
    from huggingface_hub import HfApi

    api = HfApi()
    again = f" {folder} is complete: `hf upload {repository} {folder}{'' if public else ' --private'}` puts it there."
    with _asking(repository, again):
        address = api.create_repo(repository, private=not public, exist_ok=True)
        api.upload_folder(repo_id=repository, folder_path=folder, commit_message="Add a model exported by jaxtl")
    return str(address)


@contextlib.contextmanager
def _asking(repository: str, again: str = "") -> Iterator[None]:
    """Turns what the hub and the network answer into one line; `again` says what is left to do."""
    from huggingface_hub.errors import HfHubHTTPError

    try:
        yield
    except Exception as error:
        # Of an upload that fails the client raises a RuntimeError, and the reason as its cause.
        cause = error.__cause__ if isinstance(error, RuntimeError) and error.__cause__ else error
        if isinstance(cause, HfHubHTTPError):
            raise UserError(f"{_refusal(cause, repository)}.{again}") from None
        if not isinstance(cause, OSError) and type(cause).__module__.split(".")[0] not in _CLIENTS:
            raise
        reason = f"{type(cause).__name__}: {first_line(cause)}"
        raise UserError(f"the hub cannot be reached for {repository}: {reason}.{again}") from None


def _refusal(error: Any, repository: str) -> str:
    status = getattr(error.response, "status_code", 0)
    if status == 401:
        return (
            f"the hub does not know the token: make one that may write at {_TOKENS}, for $HF_TOKEN or `hf auth login`"
        )
    said = first_line(error.server_message or error)
    if status == 403:
        return f"the hub does not let this token write to {repository}: {said}"
    return f"the hub refuses {repository} ({status}): {said}"
