"""Sections of the report that are of no runs: features without labels."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from evalfm.analysis.pages import Section
from evalfm.analysis.report.tables import Value, table
from evalfm.cards import read_json
from evalfm.cautions import SYNTHETIC
from evalfm.errors import EvalfmError
from evalfm.statistics.estimate import Estimate

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
