"""Sections of the report that are of no runs: few-shot episodes, and features without labels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from evalfm.analysis.few_shot import by_cohort, encoder_names
from evalfm.analysis.pages import Section
from evalfm.analysis.report import charts
from evalfm.analysis.report.tables import Value, table
from evalfm.cards import read_json
from evalfm.cautions import ON_TOP, SYNTHETIC, sentences
from evalfm.episodes import CHANCE, EpisodeRun
from evalfm.errors import EvalfmError
from evalfm.statistics.estimate import Estimate

METRIC = "macro AUROC"


def few_shot_sections(runs: Sequence[EpisodeRun]) -> list[Section]:
    """A section for each task and cohort among ``runs``, in their order."""
    return [_section(number, *found) for number, found in enumerate(by_cohort(runs))]


def _section(number: int, name: str, runs: Sequence[EpisodeRun]) -> Section:
    encoders = encoder_names(runs)
    notes = list(dict.fromkeys(f"{run.encoder}: {note}" for run in runs for note in run.record.cautions))
    flags = list(dict.fromkeys(each for run in runs for each in sentences(run.record.cautions, ON_TOP)))
    rows: list[list[Value]] = [
        [encoder, run.method, each.shots, each.mean.n, each.mean, each.sd]
        for run, encoder in zip(runs, encoders, strict=True)
        for each in run.record.results
    ]
    header = ["encoder", "method", "shots of each class", "episodes", METRIC, "sd over episodes"]
    words = (
        f"{METRIC}, the mean over episodes; {CHANCE:g} is chance. Each episode draws so many images of each class to "
        f"learn from and {runs[0].record.config.queries} of each to ask. The interval is that of the mean over "
        "episodes; episodes share images, so it says nothing about other patients."
    )
    curves = [
        (f"{encoder} · {run.method}", [(each.shots, each.mean) for each in run.record.results])
        for run, encoder in zip(runs, encoders, strict=True)
        if len(run.record.results) > 1
    ]
    drawing = charts.more_shots(METRIC, curves) if curves else None
    rest: list[list[Value]] = [[note] for note in notes if note.partition(": ")[2] not in flags]
    tables = [("Mean over episodes", table(f"episodes-{number}", header, rows))]
    if rest:
        tables.append(("Notes of the episodes", table(f"episodes-{number}-notes", ["note"], rest)))
    drawings = [] if drawing is None else [(f"{METRIC} against the shots of each class", drawing)]
    return Section(f"Few-shot episodes: {name}", cautions=flags, words=words, tables=tables, drawings=drawings)


FEATURES = "features.json"


def read_features(path: Path) -> dict[str, Any]:
    """The content of a ``features.json``.

    Raises:
        EvalfmError: it is none.
    """
    try:
        content = read_json(path)
        if content["schema"] != 1:
            raise ValueError
        quality_tables(0, content)
    except (EvalfmError, ValueError, KeyError, TypeError, AttributeError, OverflowError):
        raise EvalfmError(
            f"{path} is no features.json of schema 1; write it again with `evalfm embed --similarity`."
        ) from None
    return dict(content)


def quality_tables(number: int, content: Mapping[str, Any]) -> Section:
    """The section of one ``features.json``."""
    cautions = [SYNTHETIC.sentence] if content["synthetic"] else []
    cautions += [
        f"Random weights: {each['encoder']} has learnt nothing."
        for each in content["encoders"]
        if each["random_weights"]
    ]
    ranks: list[list[Value]] = [
        [each["encoder"], each["dimensions"], Estimate.from_json(each["rank_me"])] for each in content["encoders"]
    ]
    pairs: list[list[Value]] = [
        [each["one"], each["other"], Estimate.from_json(each["cka"]), Estimate.from_json(each["neighbours"])]
        for each in content["pairs"]
    ]
    counted = f"{content['patients']} {content['unit']}, " if content["unit"] == "patients" else "patients unknown, "
    words = (
        f"{counted}{content['images']} images, no labels. RankMe is the effective rank of the features, at most their "
        "number of dimensions. CKA is 1 where two encoders' features are a rotation of each other and about 0 where "
        "they are unrelated (unbiased HSIC). Neighbours: the share of an image's "
        f"{content['neighbours']} nearest images of other patients that both agree on; {content['by_chance']:.3f} by "
        "chance. None of these says that an encoder sees a disease."
    )
    tables = [("Effective rank", table(f"features-{number}-rank", ["encoder", "dimensions", "RankMe"], ranks))]
    if pairs:
        header = ["one", "other", "CKA", "shared neighbours"]
        tables.append(("How alike two encoders see", table(f"features-{number}-pairs", header, pairs)))
    return Section(f"Feature quality on {content['data']}", cautions=cautions, words=words, tables=tables)
