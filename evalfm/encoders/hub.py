"""Weights fetched from the hub into the shared cache, at the card's pinned revision; quick to say why not."""

from __future__ import annotations

import os
import ssl
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple
from urllib.error import HTTPError, URLError
from urllib.request import Request, urlopen

from evalfm.encoders.card import EncoderCard
from evalfm.errors import EvalfmError
from evalfm.paths import file_digest

TIMEOUT_SECONDS = 5
"""How long to wait for the hub's first answer."""

WITHOUT_WEIGHTS = "squeezenet1-0.caffe brings its own, and pixels and hog need none"


class HubFile(NamedTuple):
    """A file of a repository at a revision; None is the newest."""

    repository: str
    name: str
    revision: str | None

    def cached(self) -> Path | None:
        """Where it lies in the cache, or None."""
        from huggingface_hub import constants

        if not (Path(constants.HF_HUB_CACHE) / f"models--{self.repository.replace('/', '--')}").is_dir():
            # Said without the client, which takes a quarter of a second to import.
            return None
        from huggingface_hub import try_to_load_from_cache

        path = try_to_load_from_cache(self.repository, self.name, revision=self.revision)
        return Path(path) if isinstance(path, str) else None

    def size(self) -> int | None:
        """Bytes of it: in the cache, else as the hub says; None where it does not."""
        from huggingface_hub import get_hf_file_metadata, hf_hub_url

        path = self.cached()
        if path is not None:
            return path.stat().st_size
        try:
            url = hf_hub_url(self.repository, self.name, revision=self.revision)
            return get_hf_file_metadata(url, timeout=TIMEOUT_SECONDS).size
        except Exception:
            # Behind a licence, gone, or no hub: the download says which.
            return None


def files_of(card: EncoderCard, *, text: bool) -> list[HubFile]:
    """The files of ``card`` that lie on the hub; of shards those that their index names, once it is in the cache.

    Args:
        card: of the encoder.
        text: with those of its text tower, if it has one.

    >>> from evalfm.encoders import find_card
    >>> [file.name for file in files_of(find_card("biomedclip"), text=True)]
    ['open_clip_pytorch_model.bin', 'tokenizer.json']
    """
    facts, tower = card.weights, card.text_tower
    if facts.source != "hub" or facts.repository is None or facts.file is None:
        return []
    files = [HubFile(facts.repository, facts.file, facts.revision)]
    index = files[0].cached() if _names_shards(facts.file) else None
    if index is not None:
        from evalfm.encoders.weight_files import shard_names

        files += [HubFile(facts.repository, name, facts.revision) for name in shard_names(index)]
    if text and tower is not None:
        own = tower.arguments.get("weights")
        files += filter(None, [_beside(card, name) for name in (*tower.tokenizer, *([str(own)] if own else []))])
    return list(dict.fromkeys(files))


def fetch_whole(card: EncoderCard, *, text: bool) -> None:
    """Bring all of ``files_of`` into the cache; what is whole there is not asked for again.

    Raises:
        EvalfmError: as :func:`fetch`; or a file is not the one that the card pins by its SHA-256.
    """
    files = files_of(card, text=text)
    new = bool(files) and files[0].cached() is None
    path = fetch(card)
    pinned = card.weights.sha256 if new and not _names_shards(path.name) else None
    if pinned is not None and file_digest(path) != pinned:
        raise EvalfmError(
            f"{path} is not the file that the card of {card.name} pins by its SHA-256; remove it and fetch again."
        )
    for file in files_of(card, text=text)[1:]:
        fetch_file(card.name, file, "a place beside the file of weights, in one folder", card.licence)


def reachable() -> bool:
    """Whether the hub answers, and may be asked."""
    from huggingface_hub import constants

    return not constants.HF_HUB_OFFLINE and _reachable(constants.ENDPOINT)


@contextmanager
def switched_off() -> Iterator[None]:
    """In the block nothing is asked of the hub, by this process or by those that it starts."""
    from huggingface_hub import constants

    before, variable = constants.HF_HUB_OFFLINE, os.environ.get("HF_HUB_OFFLINE")
    constants.HF_HUB_OFFLINE, os.environ["HF_HUB_OFFLINE"] = True, "1"
    try:
        yield
    finally:
        constants.HF_HUB_OFFLINE = before
        if variable is None:
            del os.environ["HF_HUB_OFFLINE"]
        else:
            os.environ["HF_HUB_OFFLINE"] = variable


def fetch(card: EncoderCard) -> Path:
    """The local path of the card's weights, downloaded if they are not in the cache; of several shards their index.

    Raises:
        EvalfmError: the hub cannot be reached, a licence must be accepted first, or the file is not there; the
            sentence says which file to place where.
    """
    facts = card.weights
    assert facts.repository is not None
    assert facts.file is not None
    path = fetch_file(card.name, HubFile(facts.repository, facts.file, facts.revision), "--weights PATH", card.licence)
    if _names_shards(facts.file):
        from evalfm.encoders.weight_files import shard_names

        for name in shard_names(path):
            shard = HubFile(facts.repository, name, facts.revision)
            fetch_file(card.name, shard, "--weights PATH", card.licence)
    return path


def fetch_beside(card: EncoderCard, origin: Path | None, name: str) -> Path:
    """A file of the tokenizer: beside the weights read from ``origin``, else from the hub or its cache.

    Raises:
        EvalfmError: it is in neither place; the sentence says which file to place where.
    """
    if origin is not None and (origin.parent / name).is_file():
        return origin.parent / name
    beside = "the file of weights, in one folder" if origin is None else f"{origin.name} in {origin.parent}"
    file = _beside(card, name)
    if file is None:
        raise EvalfmError(f"The tokenizer of {card.name} needs {name}: place it beside {beside}.")
    return fetch_file(card.name, file, f"a place beside {beside}", card.licence)


def _beside(card: EncoderCard, name: str) -> HubFile | None:
    """A file of the text tower, where it lies on the hub."""
    facts, tower = card.weights, card.text_tower
    if tower is not None and tower.tokenizer_repository is not None:
        return HubFile(tower.tokenizer_repository, name, tower.tokenizer_revision)
    return None if facts.repository is None else HubFile(facts.repository, name, facts.revision)


def first_there(files: Sequence[HubFile]) -> HubFile:
    """The first of ``files`` that is in the cache, else on the hub; the first of all where neither can be seen."""
    cached = next((file for file in files if file.cached() is not None), None)
    if cached is not None or not reachable():
        return cached or files[0]
    return next((file for file in files if file.size() is not None), files[0])


def fetch_file(who: str, wanted: HubFile, remedy: str, licence: str = "their page", fault: str = "the card") -> Path:
    """The local path of one file, downloaded if it is not in the cache.

    Args:
        who: the encoder, for messages.
        wanted: the file.
        remedy: where else a user can put it.
        licence: what must be accepted where it is gated.
        fault: what to look at where there is no such file.

    Raises:
        EvalfmError: as :func:`fetch`.
    """
    from huggingface_hub import constants, hf_hub_download
    from huggingface_hub.errors import (
        EntryNotFoundError,
        GatedRepoError,
        LocalEntryNotFoundError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    cached = wanted.cached()
    if cached is not None:
        return cached
    repository, file, revision = wanted
    # Another host, a mirror or one's own, where HF_ENDPOINT says so.
    page = f"{constants.ENDPOINT}/{repository}"
    place = page if revision in (None, "main") else f"{page}/tree/{revision}"
    given = f"with {remedy} ({WITHOUT_WEIGHTS})" if remedy.startswith("--") else remedy
    by_hand = f"fetch {file} from {place} elsewhere and give it {given}"
    try:
        # The download itself retries for half a minute before it admits that there is no network.
        if constants.HF_HUB_OFFLINE or not _reachable(constants.ENDPOINT):
            raise LocalEntryNotFoundError("no network")
        # The client takes a broken download up where it stopped as long as it moves on, in this run.
        return Path(hf_hub_download(repository, file, revision=revision, etag_timeout=TIMEOUT_SECONDS))
    except GatedRepoError:
        raise EvalfmError(
            f"The weights of {who} are gated: accept their licence ({licence}) at {page}, "
            f"log in with `hf auth login`, and run again; or {by_hand}."
        ) from None
    except LocalEntryNotFoundError:
        raise EvalfmError(
            f"{file} of {who} at revision {revision} is not in the cache{_others(repository)} and the hub cannot "
            f"be reached: {by_hand}."
        ) from None
    except (RepositoryNotFoundError, RevisionNotFoundError, EntryNotFoundError):
        raise EvalfmError(
            f"The hub {constants.ENDPOINT} has no {file} at revision {revision} of {repository} "
            f"(or it needs a login): {by_hand}, and fix {fault}."
        ) from None
    except Exception as error:
        # The client lets through the errors of its HTTP library, which changes between releases.
        reason = getattr(error, "strerror", None) or type(error).__name__
        raise EvalfmError(f"{file} of {who} could not be fetched whole ({reason}): run again, or {by_hand}.") from None


def _names_shards(file: str) -> bool:
    return file.endswith(".index.json")


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
