"""Pushing a build with Kaggle's own client, which alone knows the credentials: the data set, then the kernels."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from diffad_utils import study
from diffad_utils.io.modules import digest

PUSHED = "pushed.json"
"""In a build's folder: id of a data set or kernel that was pushed -> checksum of what was built."""

GAP_SECONDS = 3600.0
"""So long a push waits for a network that is gone; kernels go on meanwhile."""

REFUSED_SECONDS = 15.0
"""The same where Kaggle answers that it will not, as it does of a data set in its first seconds."""


class KaggleError(RuntimeError):
    """Kaggle refused something, or a kernel cannot run there."""


def _client():
    """Kaggle's client, signed in the way it finds itself; nothing of it is looked at here."""
    try:
        from kaggle.api.kaggle_api_extended import KaggleApi
    except ImportError as error:
        raise KaggleError("Kaggle's client is not installed: .venv/bin/pip install -e '.[kaggle]'") from error
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

    What was pushed is noted in `PUSHED`. What this very build pushed before is not pushed again: a kernel that is
    complete stays, one that is still running is waited for; one that failed, or reads another that runs again, runs
    again. The network may be gone for an hour at a time (`GAP_SECONDS`) while kernels run.

    Args:
        folder: what `build` wrote. parallel: kernels that run at once (Kaggle allows two with a GPU).
        poll: seconds between two looks at Kaggle. wait: until all are finished; without it, what reads other kernels'
            outputs is not pushed.

    Returns:
        Kernel id -> ``complete``, ``error``, ..., or ``pushed`` without `wait`.

    Raises:
        FileNotFoundError: there is no build. KaggleError: the client is missing or not signed in, Kaggle refuses, or
        does not answer for an hour.
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
    _push_dataset(api, folder, poll)
    built = {name: _checksum(folder / "dataset", source) for name, (source, _) in kernels.items()}
    noted = pushed_before(folder)
    there = {name: _state_if_there(api, name) for name in kernels if noted.get(name) == built[name]}
    finished = {
        name: "complete" for name in kernels if all(there.get(other) == "complete" for other in (name, *reads[name]))
    }
    for name in finished:
        print(f"{name}: complete, as built; not run again (to run it again, remove {folder / PUSHED})", flush=True)
    # what is running already comes first: it has one of Kaggle's places
    waiting = sorted(kernels.keys() - finished.keys(), key=lambda name: (there.get(name) not in GOING, name))
    running, anew = [], set()
    while waiting or running:
        ready = [name for name in waiting if reads[name] <= finished.keys()]
        for name in ready[: max(0, parallel - len(running))]:
            waiting.remove(name)
            running.append(name)
            if there.get(name) in GOING and not reads[name] & anew:
                print(f"{name}: {there[name]} since an earlier push", flush=True)
                continue
            _push_kernel(api, name, kernels[name][0])
            _note(folder, {name: built[name]})
            anew.add(name)
        if not wait:
            finished |= dict.fromkeys(running, "pushed")
            running = []
            if not [name for name in waiting if not reads[name]]:
                return finished
            continue
        time.sleep(poll)
        for name in list(running):
            state = _kernel_state(api, name)
            if state not in GOING:
                print(f"{name}: {state}", flush=True)
                running.remove(name)
                finished[name] = state
    return finished


GOING = ("queued", "running", "new_script")
"""States of a kernel that is not over."""


def pushed_before(folder: Path) -> dict[str, str]:
    """The note `PUSHED` of a build's folder; empty where nothing was pushed from it."""
    note = folder / PUSHED
    return json.loads(note.read_text(encoding="utf-8")) if note.is_file() else {}


def _note(folder: Path, pushed: Mapping[str, str]) -> None:
    study.write_atomically(folder / PUSHED, study.to_json(pushed_before(folder) | pushed, PUSHED))


def _checksum(*folders: Path) -> str:
    """Of the names and bytes of all files in a build's folders."""
    files = [(file.relative_to(top), file) for top in folders for file in sorted(top.rglob("*")) if file.is_file()]
    return digest([part for name, file in files for part in (name.as_posix().encode(), file.read_bytes())])


def _is_refusal(error: Exception) -> bool:
    """Whether Kaggle answered that it will not: HTTP 4xx, but for "too slow" and "too many questions"."""
    from requests.exceptions import RequestException

    status = getattr(getattr(error, "response", None), "status_code", 0)
    return not isinstance(error, RequestException) or (400 <= status < 500 and status not in (408, 429))


def _retried(call: Callable, *arguments: str) -> Any:
    """A question to Kaggle, asked until it is answered: in nine hours the network may well be gone for a while.

    Raises:
        KaggleError: no answer for `GAP_SECONDS`, or a refusal for `REFUSED_SECONDS`.
    """
    from requests.exceptions import RequestException

    began, pause = time.monotonic(), 1.0
    while True:
        try:
            return call(*arguments)
        except RequestException as error:
            refused = _is_refusal(error)
            if time.monotonic() - began >= (REFUSED_SECONDS if refused else GAP_SECONDS):
                raise KaggleError(
                    f"Kaggle {'refuses' if refused else 'does not answer'}: {type(error).__name__}. Kernels that were "
                    "pushed go on there; `diffad kaggle push` again goes on from here"
                ) from None
            if pause == 1.0:
                print(f"Kaggle does not answer ({type(error).__name__}); asking again", flush=True)
        time.sleep(pause)
        pause = min(2 * pause, 60.0)


def _if_there(call: Callable, name: str) -> Any:
    """Kaggle's answer about a data set or kernel; None where it has none of this name, or not for this user."""
    from requests.exceptions import RequestException

    try:
        return call(name)
    except (RequestException, ValueError) as error:  # ValueError: the client's own, for a kernel that is not there
        if _is_refusal(error):
            return None
        raise KaggleError(f"Kaggle does not answer: {type(error).__name__}; push again later") from None


def _state_if_there(api: Any, name: str) -> str:
    answer = _if_there(api.kernels_status, name)
    return answer.status.name.lower() if answer else ""


def _push_dataset(api: Any, build: Path, poll: float) -> None:
    """Upload the data set of a build, unless this very one was uploaded before, and wait until it is ready."""
    folder = build / "dataset"
    name = json.loads((folder / "dataset-metadata.json").read_text(encoding="utf-8"))["id"]
    built = _checksum(folder)
    known = _if_there(api.dataset_status, name)
    if known and pushed_before(build).get(name) == built:
        print(f"{name}: there, as built", flush=True)
    else:
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
    _note(build, {name: built})


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
