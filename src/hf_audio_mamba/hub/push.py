"""Uploading a finished run to the Hub, so that a bad network can spoil the upload but never the run."""

import json
import shlex
import time
from collections.abc import Iterator
from contextlib import contextmanager
from fnmatch import fnmatch
from pathlib import Path
from typing import TYPE_CHECKING

from hf_audio_mamba.errors import HubError, UsageError

if TYPE_CHECKING:
    from huggingface_hub import HfApi

# Parts of a run that help nobody but its own resumption, and pickles, which the Hub flags as unsafe.
FOLDERS_LEFT_OUT = ("checkpoint-*", "cache", "__pycache__", ".*")
FILES_LEFT_OUT = (
    "optimizer.*",
    "scheduler.pt",
    "scaler.pt",
    "rng_state*.pth",
    "training_args.bin",
    "*.lock",
    "*.tmp",
    ".*",
)
MAX_RETRIES = 5
FIRST_WAIT_S = 1.0
MAX_WAIT_S = 60.0
TRANSIENT_STATUS = frozenset({408, 429, 500, 502, 503, 504})


def push_folder(
    folder: str | Path,
    repo_id: str,
    *,
    private: bool = False,
    commit_message: str = "Upload model",
    token: str | None = None,
    endpoint: str | None = None,
    timeout_s: float = 120.0,
) -> str:
    """Upload a run's folder as one commit, creating the repository if need be.

    Checkpoints, optimiser states, caches, hidden, lock and temporary files stay at home. Busy servers, server errors
    and broken connections are tried again up to 5 times with growing waits; refusals are not. Files that the
    repository already has are not sent again, so calling this after a failure sends the rest.

    Args:
        folder: Folder to upload; nothing in it is changed.
        repo_id: Repository, `"name"` or `"owner/name"`.
        private: Whether the repository must be private. One that exists and is public is then refused.
        commit_message: Title of the commit.
        token: Access token; None takes the one of `hf auth login` or `HF_TOKEN`.
        endpoint: Address of the Hub; None takes `HF_ENDPOINT` or https://huggingface.co.
        timeout_s: Longest silence of the server in seconds before the connection counts as broken.

    Returns:
        Address of the repository.

    Raises:
        UsageError: If the folder is missing or has nothing to upload, or `repo_id` is no valid name.
        HubError: If the Hub cannot be reached or refuses; the message says how to push later.
    """
    from huggingface_hub import HfApi
    from huggingface_hub.utils import httpx

    source = Path(folder)
    _check_arguments(source, repo_id)
    api = HfApi(endpoint=endpoint, token=token)
    failure: Exception
    for attempt in range(MAX_RETRIES + 1):
        try:
            with _request_timeout(timeout_s):
                return _push_once(api, source, repo_id, private=private, commit_message=commit_message)
        # huggingface_hub has no base class for its errors: statuses and tokens come as OSError, the network as
        # HTTPError, bad card metadata as ValueError, large files as RuntimeError.
        except (OSError, ValueError, RuntimeError, httpx.HTTPError) as error:
            failure = error
        if attempt == MAX_RETRIES or not _worth_retrying(failure):
            break
        time.sleep(_wait_s(failure, attempt))
    raise HubError(
        f"could not push {source} to {repo_id!r}: {_reason(failure, api.endpoint, timeout_s)}. "
        f"Everything is still in {source}. To push it later:\n"
        f"{_command_for_later(source, repo_id, private=private, endpoint=endpoint)}"
    ) from failure


def files_to_push(folder: Path) -> list[Path]:
    """List the files that `push_folder` uploads, sorted."""
    return [path for path in sorted(folder.rglob("*")) if path.is_file() and not _is_left_out(path.relative_to(folder))]


def _is_left_out(relative: Path) -> bool:
    in_left_out_folder = any(fnmatch(part, pattern) for part in relative.parts[:-1] for pattern in FOLDERS_LEFT_OUT)
    return in_left_out_folder or any(fnmatch(relative.name, pattern) for pattern in FILES_LEFT_OUT)


def _check_arguments(source: Path, repo_id: str) -> None:
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import validate_repo_id

    try:
        validate_repo_id(repo_id)
    except HFValidationError as error:
        raise UsageError(f"repo_id {repo_id!r} is not a valid repository name: {error}") from error
    if not source.is_dir():
        raise UsageError(f"{source} is not a folder; name the folder of a finished run to push to {repo_id!r}")
    if not files_to_push(source):
        raise UsageError(f"{source} holds nothing to push to {repo_id!r}; name the folder of a finished run")


def _push_once(api: "HfApi", source: Path, repo_id: str, *, private: bool, commit_message: str) -> str:
    from huggingface_hub import CommitOperationAdd

    repo = api.create_repo(repo_id, private=private, exist_ok=True)
    if private and not api.repo_info(repo.repo_id).private:
        raise HubError("the repository exists and is public, but private=True; choose another name or private=False")
    # Not api.upload_folder: it may split a folder into several commits, and half a model is worse than none.
    operations = [
        CommitOperationAdd(path_in_repo=path.relative_to(source).as_posix(), path_or_fileobj=path)
        for path in files_to_push(source)
    ]
    api.create_commit(repo.repo_id, operations, commit_message=commit_message)
    return str(repo)


@contextmanager
def _request_timeout(seconds: float) -> Iterator[None]:
    """Bound every request: huggingface_hub sets no limit, so a silent server would hold a finished run for ever."""
    from huggingface_hub.utils import get_session

    session = get_session()
    before = session.timeout
    session.timeout = seconds
    try:
        yield
    finally:
        session.timeout = before


def _worth_retrying(error: Exception) -> bool:
    from huggingface_hub.errors import HfHubHTTPError
    from huggingface_hub.utils import httpx

    if isinstance(error, json.JSONDecodeError):
        # The check of the card's metadata reads the answer as JSON before it looks at the status: an error page.
        return True
    if isinstance(error, HfHubHTTPError):
        if error.response.status_code not in TRANSIENT_STATUS:
            return False
        request = error.response.request
    elif isinstance(error, (httpx.TimeoutException, httpx.NetworkError, httpx.RemoteProtocolError)):
        request = error.request
    else:
        return False
    # huggingface_hub tries this one request 5 times by itself; 5 times 5 would be a wait of many minutes.
    return "/preupload/" not in str(request.url)


def _wait_s(error: Exception, attempt: int) -> float:
    """Seconds to wait: what the server asks for, else 1, 2, 4, ..., never more than a minute."""
    asked = getattr(getattr(error, "response", None), "headers", {}).get("Retry-After", "")
    return min(float(asked) if asked.isdecimal() else FIRST_WAIT_S * 2**attempt, MAX_WAIT_S)


def _reason(error: Exception, endpoint: str, timeout_s: float) -> str:
    """Say in one line why a push failed. Requests are not quoted: their headers hold the token."""
    from huggingface_hub.errors import HfHubHTTPError, OfflineModeIsEnabled
    from huggingface_hub.utils import httpx

    if isinstance(error, HfHubHTTPError):
        response = error.response
        hints = {401: " (log in with `hf auth login` or set HF_TOKEN)", 403: " (may this token write there?)"}
        said = error.server_message or response.reason_phrase
        return f"{endpoint} answered {response.status_code}: {said}{hints.get(response.status_code, '')}"
    if isinstance(error, OfflineModeIsEnabled):
        return "offline mode is on (unset HF_HUB_OFFLINE)"
    if isinstance(error, httpx.TimeoutException):
        return f"{endpoint} did not answer within {timeout_s:g} s"
    if isinstance(error, (httpx.HTTPError, json.JSONDecodeError)):
        return f"the connection to {endpoint} failed ({error or type(error).__name__})"
    return " ".join(str(error).split())


def _command_for_later(source: Path, repo_id: str, *, private: bool, endpoint: str | None) -> str:
    arguments = [repr(str(source)), repr(repo_id)]
    if private:
        arguments.append("private=True")
    if endpoint is not None:
        arguments.append(f"endpoint={endpoint!r}")
    code = f"from hf_audio_mamba.hub import push_folder; push_folder({', '.join(arguments)})"
    return f"python -c {shlex.quote(code)}"
