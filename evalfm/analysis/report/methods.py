"""A methods paragraph that can go into a paper, from what the runs recorded, and the checklist items that it covers."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from contextlib import suppress

from evalfm.analysis.pairing import usual_metric
from evalfm.errors import EvalfmError
from evalfm.metrics.labels import DELONG
from evalfm.record import IMPORTED
from evalfm.run import Run

LEFT_OUT = ("Images left out, with the reason", "CLAIM 2024, Data: inclusion and exclusion · TRIPOD+AI 6b, 20a")
SUBGROUPS = ("Subgroups", "CLAIM 2024, Robustness · TRIPOD+AI 14, 23b")
CHECKLISTS = (
    ("Source of the data and their licence", "CLAIM 2024, Data: sources · TRIPOD+AI 5a"),
    LEFT_OUT,
    ("Where the labels come from", "CLAIM 2024, Reference standard · TRIPOD+AI 8a"),
    ("Partitions, and at which level they are disjoint", "CLAIM 2024, Data partitions · TRIPOD+AI 12a"),
    ("Encoder, weights, head and software", "CLAIM 2024, Model and Training · TRIPOD+AI 12c, 18f"),
    ("Metrics, intervals and corrections", "CLAIM 2024, Evaluation · TRIPOD+AI 12e, 23a"),
    SUBGROUPS,
)
"""What the report covers, and under which heading or item of either checklist; subgroups where it has some."""
_EFFECTIVE = re.compile(r"(effective number) [0-9]+ [^,]*")
"""In the method of a share's interval: a number of its own for each."""
LEFT_TO_AUTHORS = (
    "Not covered, because no run knows it: ethics approval, dates and places of acquisition, scanners and protocols, "
    "how readers were trained, the intended sample size, interpretation and limitations."
)


def untrained_words(runs: Sequence[Run]) -> str:
    """Which encoders had random weights, and which of them as a baseline alone; nothing where none had."""
    drawn = [run for run in runs if run.record.provenance.random_weights]
    measured = sorted({run.encoder for run in drawn if not run.is_baseline})
    beside = sorted({run.encoder for run in drawn if run.is_baseline} - set(measured))
    named = [*measured, *(f"{each} (a baseline)" for each in beside)]
    if not named:
        return ""
    return f"Random weights: {_listed(named)}; such figures say nothing about the published encoder."


def methods_paragraph(runs: Sequence[Run], *, compared: bool = True) -> str:
    """How the figures came about, in plain sentences; what the records say, and whether pairs were ``compared``."""
    records = [run.record for run in runs]
    elsewhere = sorted({run.encoder for run in runs if run.head == IMPORTED})
    made = [run for run in runs if run.head != IMPORTED]
    encoders = sorted({run.encoder for run in made if not run.is_baseline})
    baselines = sorted({run.encoder for run in runs if run.is_baseline})
    data = sorted({f"{each.data.test_name} (licence: {each.data.licence})" for each in records})
    sentences = [f"Features of {_listed(encoders) or 'no encoder'} were evaluated on {_listed(data)}."]
    if elsewhere:
        sentences.append(
            f"Predictions of {_listed(elsewhere)} were made elsewhere and imported: what was trained, chosen and seen "
            "there is unknown, and what follows of training and choices is not of them."
        )
    if any(record.provenance.synthetic for record in records):
        sentences.append("At least one data set is synthetic: its figures say nothing about patients.")
    sentences += filter(None, [untrained_words(runs)])
    sources = sorted({f"{label}: {source}" for each in records for label, source in each.data.label_source.items()})
    if sources:
        sentences.append(f"Labels came from these sources: {_listed(sources)}.")
    if all(record.data.patients_known for record in records):
        sentences.append("Train, val and test share no patient; patients were the unit of resampling.")
    else:
        sentences.append("Patients were not known everywhere; there images were split and resampled as if independent.")
    folds = sorted({each.data.folds for each in records if each.data.folds})
    if folds:
        where = "Scores" if all(each.data.folds for each in records) else "Where there are folds, scores"
        sentences.append(
            f"{where} are out of fold ({_listed(map(str, folds))} folds); intervals exclude the variance of training."
        )
    heads = sorted({f"{run.head} ({run.adaptation})" for run in made if not run.is_baseline})
    if heads:
        sentences.append(
            f"Heads and what of the encoder was trained: {_listed(heads)}; what was chosen of hyper-parameters, epochs "
            "and thresholds was chosen on val alone."
        )
    seeds = sorted({record.config.seed for record in records})
    if len(seeds) > 1:
        drawn = any(record.config.draws_subsets for record in records)
        also = ", and which of the training images a subset holds" if drawn else ""
        sentences.append(
            f"There were up to {len(seeds)} seeds; they vary initialisation and order{also}, never the split."
        )
    if baselines:
        sentences.append(f"Set beside the encoders as baselines: {_listed(baselines)}.")
    every = {one.method for run in runs for one in run.metrics.values() if one.low is not None and one.method}
    methods = sorted({_EFFECTIVE.sub(r"\1", each) for each in every})
    if methods:
        sentences.append(f"Intervals of 95 % by: {'; '.join(methods)}.")
    if compared:
        sentences.append(
            f"Encoders and heads were compared in pairs on the same patients ({'; '.join(paired_tests(runs))}) with "
            "Holm's correction over all pairs of a task; of several heads of an encoder the one that is best on val "
            "speaks for it. Ranks are sets that hold for all at once with 95 % (max-|t|; Mogstad et al. 2024)."
        )
        sentences += training_words([run for run in runs if run.record.episodes is None])
    sentences.append(_software(runs))
    return " ".join(sentences)


def training_words(runs: Sequence[Run]) -> list[str]:
    """How comparisons count the training sample, or that they speak of the heads that were trained."""
    ways = {run.folder: _way(run) for run in runs}
    found = [each for each in dict.fromkeys(ways.values()) if each]
    if not runs:
        return []
    if not found:
        return [
            "Comparisons are of these trained heads: what another training sample would have changed is not counted."
        ]
    where = "" if all(ways.values()) else ", where both of a pair tell it; the others are of these trained heads"
    return [f"Standard errors, intervals and p of differences count training variance by {_listed(found)}{where}."]


def _way(run: Run) -> str:
    """By what the training variance of a run is known; empty where it is not."""
    record = run.record
    if record.refits is not None and not record.refits.learns:
        return "none of a head that learns nothing"
    if record.refits is not None and record.refits.numbers:
        among = "all fitted again" if record.refits.chosen_again else "those fitted for the run"
        count = len(record.refits.numbers)
        return (
            f"{count} refits on resampled patients of train and val (hyper-parameters chosen by the drawn val among "
            f"{among}; test patients fixed)"
        )
    if record.config.shots is not None and not record.data.folds:
        return f"draws of {record.config.shots} shots, where there are several" if record.data.pool else ""
    return "the folds (Nadeau and Bengio 2003, conservative)" if record.data.folds else ""


def paired_tests(runs: Sequence[Run]) -> list[str]:
    """The paired tests of the metrics that the tasks are compared by."""
    words_of: dict[str, set[str]] = {}
    for run in runs:
        with suppress(EvalfmError):
            # Of a package that is not installed: its task could not be compared.
            metric = None if run.record.episodes else usual_metric(run)
            if metric is not None and metric.contrast is not None:
                words_of.setdefault(metric.contrast.words, set()).add(metric.words)
    tests = [words.format(_listed(sorted(names))) for words, names in sorted(words_of.items())]
    return [
        each.replace(f"{DELONG}, joint over the classes,", "the same joint over the classes") if place else each
        for place, each in enumerate(tests)
    ]


def _software(runs: Sequence[Run]) -> str:
    versions: dict[str, set[str]] = {}
    for run in runs:
        for name, version in run.record.provenance.versions.items():
            versions.setdefault(name, set()).add(version)
    software = [f"{name} {' and '.join(sorted(found))}" for name, found in versions.items()]
    made = [each.record.provenance for each in runs if each.head != IMPORTED]
    devices = sorted({f"{each.device}, {each.precision}" for each in made})
    return f"Software: {_listed(software) or 'not recorded'}; run on {_listed(devices) or 'nothing here'}."


def _listed(words: Iterable[str]) -> str:
    every = list(words)
    return every[0] if len(every) == 1 else f"{', '.join(every[:-1])} and {every[-1]}" if every else ""
