"""What the hub's client, transformers and datasets raise where something cannot be had, as what to do about it."""

import errno
from collections.abc import Iterator

from unnorm.foundation.errors import UnnormError, first_line
from unnorm.foundation.hub import RepoType, parse

_INSTEAD = {
    "model": "give a folder that holds config.json and safetensors weights",
    "dataset": "give a file instead",
}


_HERE = {"model": "folder", "dataset": "file"}


def explain(error: BaseException, name: str, kind: RepoType = "model") -> str:
    """Why `name` (with or without @revision) could not be had, and what to do next. Never shows a token.

    error: as caught, from any of the libraries; what it was raised from is looked at too.
    """
    from huggingface_hub import errors

    causes = list(_causes(error))
    http = next((e for e in causes if isinstance(e, errors.HfHubHTTPError)), None)
    own = next((e for e in causes if isinstance(e, UnnormError)), None)
    if own is not None:
        return str(own)
    if http is not None and (answered := _answered(http, name, kind)):
        return answered
    return _on_this_machine(causes, name, kind) or _unknown(error, kind)


def _answered(error: BaseException, name: str, kind: RepoType) -> str | None:
    """What the hub's answer means: the hub was reached, and said no."""
    from huggingface_hub import constants, errors, get_token

    repository, revision = parse(name)
    status = error.response.status_code  # type: ignore[attr-defined]
    known = get_token() is not None
    if isinstance(error, errors.GatedRepoError):
        page = f"{constants.ENDPOINT}/{'datasets/' if kind == 'dataset' else ''}{repository}"
        then = (
            "the account whose token is set here is not among them, or the token may not read gated repositories"
            if known and status != 401
            else "then log in with `hf auth login`, or set HF_TOKEN"
        )
        return f"it is gated: only accounts that its owner let in may read it. Ask for access at {page}; {then}."
    if isinstance(error, errors.RevisionNotFoundError):
        return f"it has no revision {revision!r}. Give a branch, a tag or a whole commit, as in {repository}@main."
    if isinstance(error, errors.RepositoryNotFoundError):
        what = "data set" if kind == "dataset" else "model"
        private = "the token that is set here may not read it" if known else "log in with `hf auth login` first"
        return f"the hub has no {what} of this name. Check how it is spelt, or {_INSTEAD[kind]}; if private: {private}."
    if status == 401:
        return "the hub refuses the token that is set here. Log in again with `hf auth login`, or set HF_TOKEN anew."
    if status == 403:
        return "the token that is set here may not read it. Log in with one that may: `hf auth login`."
    if status == 429:
        return "the hub asks to wait: too many requests from here. Run the same again in some minutes, or log in."
    if status >= 500:
        return f"the hub is in trouble (HTTP {status}). Run the same again later; what was downloaded whole is kept."
    return None


def _on_this_machine(causes: list[BaseException], name: str, kind: RepoType) -> str | None:
    """What went wrong on the way or on this machine's disk."""
    from huggingface_hub import constants, errors, is_offline_mode

    numbers = {e.errno for e in causes if isinstance(e, OSError)}
    kinds = {base.__name__ for e in causes for base in type(e).__mro__}
    missing = any(isinstance(e, errors.LocalEntryNotFoundError) for e in causes)
    if numbers & {errno.ENOSPC, errno.EDQUOT}:
        return f"the disk of the hub's cache is full ({constants.HF_HUB_CACHE}). Make room, or set HF_HOME elsewhere."
    if numbers & {errno.EROFS, errno.EACCES}:
        return f"the hub's cache {constants.HF_HUB_CACHE} cannot be written. Set HF_HOME to a folder that can."
    if is_offline_mode() and (missing or kinds & {"OfflineModeIsEnabled", "ConnectionError"}):
        return (
            f"there is no {_HERE[kind]} of this name here; HF_HUB_OFFLINE is set, and the cache "
            f"{constants.HF_HUB_CACHE} does not hold it. Unset it to download, or {_INSTEAD[kind]}."
        )
    broke_off = any("Consistency check failed" in str(e) for e in causes)
    if broke_off or kinds & {"ReadError", "ReadTimeout", "RemoteProtocolError"}:
        return "the download broke off. Run the same again: files that arrived whole are kept."
    if missing or kinds & {"TransportError", "OfflineModeIsEnabled", "ConnectionError"}:
        return (
            f"the hub ({constants.ENDPOINT}) is out of reach, and the cache does not hold it. Check the connection and "
            f"run the same again, or {_INSTEAD[kind]}."
        )
    return None


def _unknown(error: BaseException, kind: RepoType) -> str:
    if "cannot be loaded with `safetensors`" in str(error):
        return "it has no safetensors weights, and no others are read. Give another revision that has, or a folder."
    text = _without_token(first_line(error))
    return f"{text} Or {_INSTEAD[kind]}." if kind == "model" else text


def _without_token(text: str) -> str:
    """A library's words without the token, should they hold it."""
    from huggingface_hub import get_token

    token = get_token()
    return text.replace(token, "(token)") if token else text


def _causes(error: BaseException) -> Iterator[BaseException]:
    """`error`, and all that it was raised from or in the handling of."""
    seen: set[int] = set()
    left = [error]
    while left:
        one = left.pop(0)
        if id(one) not in seen:
            seen.add(id(one))
            yield one
            left += [e for e in (one.__cause__, one.__context__) if e is not None]
