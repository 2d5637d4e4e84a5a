"""Sections of the report that need more than runs: features without labels, and what a device alone changes."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from evalfm.analysis.pages import Section
from evalfm.analysis.report.tables import Signed, Value, Worded, table
from evalfm.cards import read_json
from evalfm.cautions import SYNTHETIC
from evalfm.errors import EvalfmError
from evalfm.statistics.estimate import Estimate

FEATURES = "features.json"
CHANGES = "counterfactual.json"


def read_features(path: Path) -> dict[str, Any]:
    """The content of a ``features.json``.

    Raises:
        EvalfmError: it is none.
    """
    return _read(path, lambda content: quality_tables(0, content), "write it again with `evalfm embed --similarity`")


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


def read_changes(path: Path) -> dict[str, Any]:
    """The content of a ``counterfactual.json``: what `evalfm benchmark` found a chest tube to change, run by run.

    Raises:
        EvalfmError: it is none.
    """
    again = "remove it and run `evalfm benchmark` again"
    return _read(path, lambda content: counterfactual_sections([content]), again)


def _read(path: Path, show: Callable[[dict[str, Any]], object], again: str) -> dict[str, Any]:
    """A file of schema 1 that ``show`` can show; ``again`` says how to make it anew."""
    try:
        content = dict(read_json(path))
        if content["schema"] != 1:
            raise ValueError
        show(content)
    except (EvalfmError, ValueError, KeyError, TypeError, AttributeError, OverflowError):
        raise EvalfmError(f"{path} is no {path.name} of schema 1; {again}.") from None
    return content


def counterfactual_sections(contents: Sequence[Mapping[str, Any]]) -> list[Section]:
    """One section of all ``contents`` of counterfactual.json; none where nothing was tried."""
    tried = [each for content in contents for each in content["runs"]]
    drawn = [_drawn(each, change) for each in tried for change in each.get("changes", ())]
    painted = [_painted(each, change) for each in tried for change in each.get("erasures", ())]
    header = ["model", "task", "answer", "among", "images", "patients"]
    tables = []
    if drawn:
        columns = [*header, "without tube", "with tube", "difference", "p"]
        tables.append(
            ("Drawn in: phantom images with and without a chest tube", table("counterfactual-drawn", columns, drawn))
        )
    if painted:
        columns = [*header, "as it is", "painted out", "control painted over", "contrast", "p"]
        heading = "Painted out of real images, against a control region"
        tables.append((heading, table("counterfactual-painted", columns, painted)))
    notes = list(dict.fromkeys(note for each in tried for note in each["notes"]))
    words = "Paired by image, 95 % intervals over patients (t); p is not corrected."
    return (
        [Section("What a chest tube alone changes", "counterfactual", words=words, points=notes, tables=tables)]
        if tried
        else []
    )


def _first(tried: Mapping[str, Any], change: Mapping[str, Any]) -> list[Value]:
    return [tried["model"], tried["task"], change["answer"], change["among"], change["images"], change["patients"]]


def _drawn(tried: Mapping[str, Any], change: Mapping[str, Any]) -> list[Value]:
    means: list[Value] = [Worded.number(change[name], ".3f") for name in ("without", "with_tube")]
    found = change["difference"]
    return [*_first(tried, change), *means, *_change(found, change["reason"])]


def _painted(tried: Mapping[str, Any], change: Mapping[str, Any]) -> list[Value]:
    reason = change["reason"]
    device, control = (_change(change[name], reason)[0] for name in ("device", "control"))
    mean = Worded.number(change["as_it_is"], ".3f")
    return [*_first(tried, change), mean, device, control, *_change(change["contrast"], reason)]


def _change(found: Mapping[str, Any] | None, reason: str | None) -> list[Value]:
    """A difference and its p; the reason where there is none."""
    if found is None:
        return [reason, None]
    return [Signed(found["value"], found["low"], found["high"]), Worded.p(found["p"])]


def tube_changes(contents: Sequence[Mapping[str, Any]]) -> list[str]:
    """The changes of scores and areas whose interval excludes 0, a sentence each."""
    found = []
    for each in (each for content in contents for each in content["runs"]):
        for what, key in (("changes", "difference"), ("erasures", "contrast")):
            for change in each.get(what, ()):
                difference = change[key]
                if difference is None or difference["low"] is None or difference["low"] <= 0 <= difference["high"]:
                    continue
                way = "drawn in" if what == "changes" else "painted out (control subtracted)"
                ends = [difference[end] for end in ("value", "low", "high")]
                # A change that is told from 0 is not shown as 0.
                value, low, high = (f"{end:+.3f}" if min(map(abs, ends)) >= 0.0005 else f"{end:+.2g}" for end in ends)
                found.append(
                    f"{each['model']} on {each['task']}: a chest tube {way} changes {change['answer']} by "
                    f"{value} [{low}, {high}] {change['among']}."
                )
    return found
