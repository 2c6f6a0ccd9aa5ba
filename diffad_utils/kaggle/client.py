"""Pushing a build with Kaggle's own client, which alone knows the credentials: the data set, then the kernels."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

from diffad_utils import study


class KaggleError(RuntimeError):
    """Kaggle refused something, or a kernel cannot run there."""


def _client():
    """Kaggle's client, signed in the way it finds itself; nothing of it is looked at here."""
    try:
        from kaggle.api.kaggle_api_extended import KaggleApi
    except ImportError as error:
        raise KaggleError("Kaggle's client is not installed: pip install 'diffad-utils[kaggle]'") from error
    api = KaggleApi()
    try:
        api.authenticate()
    except SystemExit as error:
        raise KaggleError("Kaggle's client is not signed in: see https://www.kaggle.com/docs/api") from error
    return api


def push(
    folder: str | Path | None = None, *, parallel: int = 2, poll: float = 30.0, wait: bool = True
) -> dict[str, str]:
    """Upload a build: the data set first, then the kernels, each after those whose output it reads.

    Args:
        folder: what `build` wrote. parallel: kernels that run at once (Kaggle allows two with a GPU).
        poll: seconds between two looks at Kaggle. wait: until all are finished; without it, what reads other kernels'
            outputs is not pushed.

    Returns:
        Kernel id -> ``complete``, ``error``, ..., or ``pushed`` without `wait`.

    Raises:
        FileNotFoundError: there is no build. KaggleError: the client is missing or not signed in, or Kaggle refuses.
    """
    folder = Path(folder or study.repository() / "dist" / "kaggle")
    files = sorted(folder.glob("*/kernel-metadata.json"))
    if not files:
        raise FileNotFoundError(f"{folder} has no build; write one with `diffad kaggle build --owner NAME`")
    kernels = {
        (content := json.loads(file.read_text(encoding="utf-8")))["id"]: (file.parent, content) for file in files
    }
    reads = {name: (set(content["kernel_sources"]) & kernels.keys()) - {name} for name, (_, content) in kernels.items()}
    api = _client()
    _push_dataset(api, folder / "dataset", poll)
    waiting, running, finished = list(kernels), [], {}
    while waiting or running:
        ready = [name for name in waiting if reads[name] <= finished.keys()]
        for name in ready[: max(0, parallel - len(running))]:
            waiting.remove(name)
            _push_kernel(api, name, kernels[name][0])
            running.append(name)
        if not wait:
            finished |= dict.fromkeys(running, "pushed")
            running = []
            if not [name for name in waiting if not reads[name]]:
                return finished
            continue
        time.sleep(poll)
        for name in list(running):
            state = _kernel_state(api, name)
            if state not in ("queued", "running", "new_script"):
                print(f"{name}: {state}", flush=True)
                running.remove(name)
                finished[name] = state
    return finished


def _retried(call, *arguments):
    """A question to Kaggle, asked up to five times: a poll in nine hours may well fail once."""
    from requests.exceptions import RequestException

    for attempt in range(5):
        try:
            return call(*arguments)
        except RequestException as error:
            if attempt == 4:
                raise KaggleError(f"Kaggle does not answer: {type(error).__name__}") from None
            time.sleep(2.0**attempt)


def _push_dataset(api: Any, folder: Path, poll: float) -> None:
    from requests.exceptions import HTTPError

    name = json.loads((folder / "dataset-metadata.json").read_text(encoding="utf-8"))["id"]
    try:
        api.dataset_status(name)
        known = True
    except HTTPError:  # what Kaggle says of a data set that is not there
        known = False
    if known:
        answer = api.dataset_create_version(str(folder), "diffad kaggle push", quiet=True, dir_mode="zip")
    else:
        answer = api.dataset_create_new(str(folder), public=False, quiet=True, dir_mode="zip")
    if answer.error:
        raise KaggleError(f"data set {name}: {answer.error}")
    print(f"{name}: {'new version' if known else 'created'}", flush=True)
    while (state := _retried(api.dataset_status, name)) != "ready":
        if state in ("failed", "deleted"):
            raise KaggleError(f"data set {name}: {state}")
        time.sleep(poll)


def _push_kernel(api: Any, name: str, folder: Path) -> None:
    answer = api.kernels_push(str(folder))
    refused = {
        kind: getattr(answer, f"invalid_{kind}_sources")
        for kind in ("dataset", "kernel", "model")
        if getattr(answer, f"invalid_{kind}_sources")
    }
    if answer.error or refused:
        raise KaggleError(f"kernel {name}: {answer.error or f'Kaggle does not know these sources: {refused}'}")
    print(f"{name}: pushed, version {answer.version_number}", flush=True)


def _kernel_state(api: Any, name: str) -> str:
    answer = _retried(api.kernels_status, name)
    if answer.failure_message:
        print(f"{name}: {answer.failure_message}", flush=True)
    return answer.status.name.lower()
