"""Pushing a run to a Hub on the loopback interface that works, refuses, breaks off or is not there."""

import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import huggingface_hub.constants
import pytest

from hf_audio_mamba.errors import HubError, UsageError
from hf_audio_mamba.hub import push_folder
from tests.hub.fake_hub import TOKEN, FakeHub

REPO = "owner/model"
MODEL_FILES = {
    "README.md": b"---\nlicense: apache-2.0\n---\n# Model\n",
    "config.json": b'{"model_type": "momamba"}',
    "model.safetensors": bytes(range(256)) * 4000,
    "plots/confusion_matrix.png": b"\x89PNG",
    ".gitattributes-like": b"hidden",
}
UPLOADED = sorted(name for name in MODEL_FILES if not name.startswith("."))


@pytest.fixture
def run_folder(tmp_path: Path) -> Path:
    """A finished run: model, checkpoints, caches and leftovers."""
    folder = tmp_path / "my run"
    left_out = {
        "checkpoint-10/model.safetensors": b"old",
        "fold-1/checkpoint-20/optimizer.pt": b"old",
        "optimizer.pt": b"state",
        "scheduler.pt": b"state",
        "rng_state_0.pth": b"state",
        "training_args.bin": b"pickle",
        "cache/features.npy": b"cached",
        ".cache/huggingface/x": b"cached",
        "run.lock": b"",
        "half.tmp": b"half",
    }
    for name, content in {**MODEL_FILES, **left_out}.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    return folder


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeHub]:
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    with FakeHub() as server:
        yield server


@pytest.fixture
def waits(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Seconds that the code under test wanted to sleep; it does not."""
    recorded: list[float] = []
    monkeypatch.setattr(time, "sleep", recorded.append)
    return recorded


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_uploads_model_and_nothing_else(hub: FakeHub, run_folder: Path) -> None:
    before = contents(run_folder)
    url = push_folder(run_folder, REPO, commit_message="First", token=TOKEN, endpoint=hub.endpoint)
    assert url == f"{hub.endpoint}/{REPO}"
    assert hub.commits == [("First", UPLOADED)]
    assert hub.repos[REPO] == {name: MODEL_FILES[name] for name in UPLOADED}
    assert hub.tokens == {f"Bearer {TOKEN}"}
    assert hub.private[REPO] is False
    assert contents(run_folder) == before


def test_second_push_sends_only_what_changed(hub: FakeHub, run_folder: Path) -> None:
    push_folder(run_folder, REPO, token=TOKEN, endpoint=hub.endpoint)
    (run_folder / "config.json").write_bytes(b"{}")
    push_folder(run_folder, REPO, token=TOKEN, endpoint=hub.endpoint)
    assert [paths for _, paths in hub.commits] == [UPLOADED, ["config.json"]]


def test_private_repository_is_created_private(hub: FakeHub, run_folder: Path) -> None:
    push_folder(run_folder, REPO, private=True, token=TOKEN, endpoint=hub.endpoint)
    assert hub.private[REPO] is True
    assert hub.commits


def test_private_is_never_published_in_a_public_repository(hub: FakeHub, run_folder: Path) -> None:
    hub.repos[REPO], hub.private[REPO] = {}, False
    with pytest.raises(HubError, match="exists and is public"):
        push_folder(run_folder, REPO, private=True, token=TOKEN, endpoint=hub.endpoint)
    assert hub.repos[REPO] == {}


@pytest.mark.parametrize(("status", "hint"), [(401, "hf auth login"), (403, "may this token write")])
@pytest.mark.parametrize("step", ["create", "commit"])
def test_refusal_is_final_and_names_the_way_out(
    hub: FakeHub, run_folder: Path, waits: list[float], status: int, hint: str, step: str
) -> None:
    hub.faults[step] = [status, "..."]
    before = contents(run_folder)
    with pytest.raises(HubError) as caught:
        push_folder(run_folder, REPO, token=TOKEN, endpoint=hub.endpoint)
    message = str(caught.value)
    assert REPO in message
    assert f"answered {status}" in message
    assert hint in message
    assert f"Everything is still in {run_folder}" in message
    assert TOKEN not in message
    assert hub.requests.count(step) == 1
    assert waits == []
    assert contents(run_folder) == before


@pytest.mark.parametrize("step", ["create", "validate", "preupload", "commit"])
@pytest.mark.parametrize("faults", [[429], [500, 500, 500], [503, 502], ["reset"], ["reset", 504, "reset"]])
def test_passing_trouble_is_sat_out(
    hub: FakeHub, run_folder: Path, waits: list[float], step: str, faults: list[int | str]
) -> None:
    hub.faults[step] = list(faults)
    push_folder(run_folder, REPO, token=TOKEN, endpoint=hub.endpoint)
    assert hub.repos[REPO] == {name: MODEL_FILES[name] for name in UPLOADED}
    assert waits == [1.0, 2.0, 4.0][: len(faults)]


@pytest.mark.parametrize("step", ["create", "validate", "preupload", "commit"])
@pytest.mark.parametrize("status", [429, 500])
def test_lasting_trouble_ends_after_five_retries(
    hub: FakeHub, run_folder: Path, waits: list[float], step: str, status: int
) -> None:
    hub.faults[step] = [status, "..."]
    before = contents(run_folder)
    with pytest.raises(HubError, match=f"could not push .* to '{REPO}'"):
        push_folder(run_folder, REPO, token=TOKEN, endpoint=hub.endpoint)
    assert hub.requests.count(step) == 6
    assert len(waits) == 5
    assert waits == sorted(waits)
    assert contents(run_folder) == before


def test_answer_lost_after_the_commit_does_not_commit_twice(hub: FakeHub, run_folder: Path, waits: list[float]) -> None:
    hub.faults["commit"] = ["lost"]
    push_folder(run_folder, REPO, token=TOKEN, endpoint=hub.endpoint)
    assert hub.commits == [("Upload model", UPLOADED)]
    assert waits == [1.0]


def test_waits_as_long_as_the_server_asks_up_to_a_minute(hub: FakeHub, run_folder: Path, waits: list[float]) -> None:
    hub.faults["create"] = [429]
    hub.headers["Retry-After"] = "7"
    push_folder(run_folder, REPO, token=TOKEN, endpoint=hub.endpoint)
    hub.faults["create"] = [429]
    hub.headers["Retry-After"] = "86400"
    push_folder(run_folder, REPO, token=TOKEN, endpoint=hub.endpoint)
    assert waits == [7.0, 60.0]


def test_server_that_is_not_there(monkeypatch: pytest.MonkeyPatch, run_folder: Path, waits: list[float]) -> None:
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        endpoint = f"http://127.0.0.1:{unused.getsockname()[1]}"
        before = contents(run_folder)
        with pytest.raises(HubError, match="Connection refused") as caught:
            push_folder(run_folder, REPO, token=TOKEN, endpoint=endpoint)
    assert endpoint in str(caught.value)
    assert waits == [1.0, 2.0, 4.0, 8.0, 16.0]
    assert contents(run_folder) == before


@pytest.mark.parametrize("step", ["create", "preupload", "commit"])
def test_silent_server_does_not_hold_the_run(hub: FakeHub, run_folder: Path, waits: list[float], step: str) -> None:
    hub.faults[step] = ["hang"] * 6
    with pytest.raises(HubError, match=r"did not answer within 0\.2 s"):
        push_folder(run_folder, REPO, token=TOKEN, endpoint=hub.endpoint, timeout_s=0.2)
    assert hub.requests.count(step) == 6
    assert len(waits) == 5


def test_offline_mode_is_said_and_not_retried(run_folder: Path, waits: list[float]) -> None:
    with pytest.raises(HubError, match="unset HF_HUB_OFFLINE"):
        push_folder(run_folder, REPO, token=TOKEN)
    assert waits == []


def test_bad_card_metadata_is_said(hub: FakeHub, run_folder: Path) -> None:
    hub.faults["validate"] = [400]
    with pytest.raises(HubError, match="Invalid metadata in README"):
        push_folder(run_folder, REPO, token=TOKEN, endpoint=hub.endpoint)
    assert hub.commits == []


def test_printed_command_pushes_later(hub: FakeHub, run_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hub.faults["create"] = [403]
    with pytest.raises(HubError) as caught:
        push_folder(run_folder, REPO, private=True, token=TOKEN, endpoint=hub.endpoint)
    command = str(caught.value).splitlines()[-1]
    assert command.startswith("python -c ")
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    monkeypatch.setenv("HF_HUB_OFFLINE", "0")
    subprocess.run(["sh", "-c", command.replace("python", sys.executable, 1)], check=True, timeout=300)
    assert sorted(hub.repos[REPO]) == UPLOADED
    assert hub.private[REPO] is True


@pytest.mark.parametrize("repo_id", ["a/b/c", "owner/bad name", "", "-x", "owner/.."])
def test_impossible_names_are_wrong_usage(run_folder: Path, repo_id: str) -> None:
    with pytest.raises(UsageError, match="repo_id"):
        push_folder(run_folder, repo_id)


def test_folders_without_a_model_are_wrong_usage(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="not a folder"):
        push_folder(tmp_path / "missing", REPO)
    (tmp_path / "checkpoint-1").mkdir()
    (tmp_path / "checkpoint-1" / "model.safetensors").write_bytes(b"x")
    with pytest.raises(UsageError, match="nothing to push"):
        push_folder(tmp_path, REPO)
