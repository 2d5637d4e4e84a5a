"""Weights in several files: the shards that an index names, or that their own names count."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from evalfm.cards import read_json
from evalfm.encoders.weight_files import listed
from evalfm.errors import EvalfmError

INDEX = ".index.json"
"""How the name of an index ends, after the name that one file would have."""

COUNTED = re.compile(r"(?P<stem>.+)-(?P<number>\d{5})-of-(?P<count>\d{5})(?P<suffix>\.[A-Za-z]+)")


def find_shards(path: Path) -> list[Path]:
    """The files that belong together with ``path``: an index, a shard named as such, or any other file, alone.

    Raises:
        EvalfmError: the index is damaged or names a file in another folder, or a shard is missing.
    """
    if path.name.endswith(INDEX):
        names = shard_names(path)
    elif (match := COUNTED.fullmatch(path.name)) and int(match["count"]) > 1:
        count = int(match["count"])
        # So many files are never there, and their names would fill the memory.
        if not 1 <= int(match["number"]) <= count <= 10_000:
            raise EvalfmError(f"{path} counts itself as shard {match['number']} of {count}; fetch the weights again.")
        names = [f"{match['stem']}-{number:05}-of-{count:05}{match['suffix']}" for number in range(1, count + 1)]
    else:
        return [path]
    missing = [name for name in names if not (path.parent / name).is_file()]
    if missing:
        raise EvalfmError(
            f"{path} is one of several files of weights, and {listed(missing)} is not beside it; fetch all of them "
            "into one folder."
        )
    return [path.parent / name for name in names]


def shard_names(index: Path) -> list[str]:
    """The files that an index names, sorted; they lie in its own folder.

    Raises:
        EvalfmError: the index is no index, or names anything but a file beside itself.
    """
    content = read_json(index)
    names = content.get("weight_map") if isinstance(content, dict) else None
    if not isinstance(names, dict) or not names or not all(isinstance(name, str) for name in names.values()):
        raise EvalfmError(f"{index} is no index of weights (a weight_map of tensors and files); fetch it again.")
    every = sorted(set(names.values()))
    outside = [name for name in every if re.search(r"[/\\:\0]", name) or name in ("", ".", "..") or len(name) > 200]
    if outside:
        raise EvalfmError(f"{index} names {listed(outside)}, which is no file beside it; fetch the weights again.")
    if any(name.endswith(INDEX) for name in every):
        raise EvalfmError(f"{index} names an index, not files of weights; fetch the weights again.")
    return every


def has_shards(paths: Sequence[Path]) -> bool:
    """Whether ``paths`` are all shards of one set, by their names."""
    matches = [COUNTED.fullmatch(path.name) for path in paths]
    return None not in matches and len({(each["stem"], each["count"], each["suffix"]) for each in matches if each}) == 1
