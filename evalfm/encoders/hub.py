"""Weights fetched from the hub into the shared cache, at the card's pinned revision; quick to say why not."""

from __future__ import annotations

import ssl
from pathlib import Path
from urllib.error import HTTPError, URLError
from urllib.request import Request, urlopen

from evalfm.encoders.card import EncoderCard
from evalfm.errors import EvalfmError

TIMEOUT_SECONDS = 5
"""How long to wait for the hub's first answer."""

WITHOUT_WEIGHTS = "pixels, hog and random:resnet18 need no weights"


def fetch(card: EncoderCard) -> Path:
    """The local path of the card's weights, downloaded if they are not in the cache; of several shards their index.

    Raises:
        EvalfmError: the card has no hub source, the hub cannot be reached, a licence must be accepted first,
            or the file is not there; the sentence says which file to place where.
    """
    facts = card.weights
    if facts.source != "hub" or facts.repository is None or facts.file is None:
        where = f" (they are given out at {facts.request})" if facts.request else ""
        raise EvalfmError(
            f"The weights of {card.name} are on no hub{where}: give their file with --weights PATH "
            f"({WITHOUT_WEIGHTS}; --weights random takes the architecture alone)."
        )
    path = _fetched(card, facts.repository, facts.file, facts.revision, "--weights PATH")
    if facts.file.endswith(".index.json"):
        from evalfm.encoders.weight_files import shard_names

        for name in shard_names(path):
            _fetched(card, facts.repository, name, facts.revision, "--weights PATH")
    return path


def fetch_beside(card: EncoderCard, origin: Path | None, name: str) -> Path:
    """A file of the tokenizer: beside the weights read from ``origin``, else from the hub or its cache.

    Raises:
        EvalfmError: it is in neither place; the sentence says which file to place where.
    """
    if origin is not None and (origin.parent / name).is_file():
        return origin.parent / name
    facts, tower = card.weights, card.text_tower
    repository = (tower and tower.tokenizer_repository) or facts.repository
    revision = facts.revision if tower is None or tower.tokenizer_repository is None else tower.tokenizer_revision
    beside = "the file of weights, in one folder" if origin is None else f"{origin.name} in {origin.parent}"
    if repository is None:
        raise EvalfmError(f"The tokenizer of {card.name} needs {name}: place it beside {beside}.")
    return _fetched(card, repository, name, revision, f"a place beside {beside}")


def _fetched(card: EncoderCard, repository: str, file: str, revision: str | None, remedy: str) -> Path:
    """The local path of one file of a repository; ``remedy``: where else a user can put it."""
    from huggingface_hub import constants, hf_hub_download, try_to_load_from_cache
    from huggingface_hub.errors import (
        EntryNotFoundError,
        GatedRepoError,
        LocalEntryNotFoundError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    # Another host, a mirror or one's own, where HF_ENDPOINT says so.
    page = f"{constants.ENDPOINT}/{repository}"
    place = page if revision in (None, "main") else f"{page}/tree/{revision}"
    if remedy.startswith("--"):
        by_hand = f"fetch {file} from {place} elsewhere and give it with {remedy} ({WITHOUT_WEIGHTS})"
    else:
        by_hand = f"fetch {file} from {place} elsewhere and give it {remedy}"
    cached = try_to_load_from_cache(repository, file, revision=revision)
    if isinstance(cached, str):
        return Path(cached)
    try:
        # The download itself retries for half a minute before it admits that there is no network.
        if constants.HF_HUB_OFFLINE or not _reachable(constants.ENDPOINT):
            raise LocalEntryNotFoundError("no network")
        # A broken download is taken up by the client where it stopped, five times.
        return Path(hf_hub_download(repository, file, revision=revision, etag_timeout=TIMEOUT_SECONDS))
    except GatedRepoError:
        raise EvalfmError(
            f"The weights of {card.name} are gated: accept their licence ({card.licence}) at {page}, "
            f"log in with `hf auth login`, and run again; or {by_hand}."
        ) from None
    except LocalEntryNotFoundError:
        raise EvalfmError(
            f"{file} of {card.name} at revision {revision} is not in the cache{_others(repository)} and the hub cannot "
            f"be reached: {by_hand}."
        ) from None
    except (RepositoryNotFoundError, RevisionNotFoundError, EntryNotFoundError):
        raise EvalfmError(
            f"The hub {constants.ENDPOINT} has no {file} at revision {revision} of {repository} "
            f"(or it needs a login): {by_hand}, and fix the card."
        ) from None
    except Exception as error:
        # The client lets through the errors of its HTTP library, which changes between releases.
        reason = getattr(error, "strerror", None) or type(error).__name__
        raise EvalfmError(
            f"{file} of {card.name} could not be fetched whole ({reason}): run again, or {by_hand}."
        ) from None


def _others(repository: str) -> str:
    """Which other revisions of a repository the cache holds, in brackets."""
    from huggingface_hub import constants

    snapshots = Path(constants.HF_HUB_CACHE) / f"models--{repository.replace('/', '--')}" / "snapshots"
    revisions = sorted(each.name for each in snapshots.iterdir()) if snapshots.is_dir() else []
    return f" (which holds {', '.join(revisions)})" if revisions else ""


def _reachable(address: str) -> bool:
    """Whether ``address`` can be reached; the environment's proxies are used."""
    try:
        urlopen(Request(address, method="HEAD"), timeout=TIMEOUT_SECONDS).close()
    except HTTPError:
        return True
    except URLError as error:
        # A certificate that Python does not trust may be one that the hub's client does.
        return isinstance(error.reason, ssl.SSLError)
    except OSError:
        return False
    return True
