"""What a call of ``probe`` asks for: every encoder on every task at every number of shots."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

from evalfm.config import ProbeConfig
from evalfm.data.manifest import Manifest
from evalfm.encoders.choice import ATTENTIVE
from evalfm.encoders.encoder import Encoder
from evalfm.encoders.reference import EncoderRef
from evalfm.errors import EvalfmError
from evalfm.probing.names import check_names


@dataclass(frozen=True)
class Case:
    """One encoder on one task, with the objects that may stand for names of its configuration.

    Attributes:
        config: every option.
        encoder: its name, or the encoder itself. data, test_data: a name, a folder, or what was read of it.
    """

    config: ProbeConfig
    encoder: str | Encoder
    data: str | Path | Manifest | None
    test_data: str | Path | Manifest | None

    @classmethod
    def of(cls, config: ProbeConfig, data: Manifest | None = None, test_data: Manifest | None = None) -> Case:
        """What ``config`` names, with data sets that were read already."""
        return cls(
            config,
            config.encoder,
            config.data if data is None else data,
            config.test_data if test_data is None else test_data,
        )


def cases_of(
    encoder: str | Encoder | Sequence[str | Encoder] | ProbeConfig,
    task: str | Sequence[str] | None,
    data: str | Path | Manifest | None,
    test_data: str | Path | Manifest | None,
    options: dict[str, Any],
) -> list[Case]:
    """The cases of a call, whose arguments are those of ``probe``; task by task, encoder by encoder.

    Raises:
        EvalfmError: a name is unknown, or options are not valid or do not go together.

    >>> [case.config.case for case in cases_of(["hog", "pixels"], "ptx-cls", None, None, {})]
    ['hog × ptx-cls', 'pixels × ptx-cls']
    """
    if not isinstance(encoder, ProbeConfig):
        return _all_combinations(encoder, task, data, test_data, options)
    if task is not None or options:
        raise EvalfmError("A ProbeConfig holds every option; give none beside it.")
    data = encoder.data if data is None else data
    test_data = encoder.test_data if test_data is None else test_data
    check_names([encoder.encoder], [encoder.task], encoder.heads or (), [data, test_data])
    return [Case(encoder, encoder.encoder, data, test_data)]


def _all_combinations(
    encoder: str | Encoder | Sequence[str | Encoder],
    task: str | Sequence[str] | None,
    data: str | Path | Manifest | None,
    test_data: str | Path | Manifest | None,
    options: dict[str, Any],
) -> list[Case]:
    encoders = [encoder] if isinstance(encoder, str | Encoder) else list(encoder)
    tasks = [task] if isinstance(task, str) else list(task or ())
    if not encoders or not tasks:
        raise EvalfmError("Name at least one encoder and one task.")
    if len(encoders) > 1 and str(options.get("weights", "hub")) not in ("hub", "random"):
        raise EvalfmError("--weights PATH is of one encoder; name one with --encoder.")
    if len(tasks) > 1 and options.get("prompts") is not None:
        raise EvalfmError("--prompts is of one task; name one with --task.")
    heads, adaptation = options.get("heads") or (), options.get("adaptation")
    named = [heads] if isinstance(heads, str) else heads
    check_names(
        encoders, tasks, named, [data, test_data], adaptation=adaptation, recipe=options.get("recipe"), aliases=True
    )
    names: dict[str, Any] = {"data": data, "test_data": test_data}
    names = {key: each.info.name if isinstance(each, Manifest) else each for key, each in names.items()}
    shots = options.pop("shots", None)
    every = list(dict.fromkeys(shots)) if isinstance(shots, Sequence) and not isinstance(shots, str) else [shots]
    if not every:
        raise EvalfmError("No number of shots is given; say how many images of each class, such as --shots 1,5,20.")
    jobs = []
    # What an object decides itself is refused here, where it is not yet a name.
    pooling = options.get("pooling")
    for one in encoders:
        if not isinstance(one, str):
            EncoderRef.parse(one).choosing(None if pooling == ATTENTIVE else pooling, options.get("layers"))
    for one_task, one, number in product(tasks, encoders, every):
        names |= {"encoder": EncoderRef.parse(one).label, "task": one_task, "shots": number}
        config = ProbeConfig.checked(**names, **options)
        # Where the name is an alias, the configuration has it written out.
        jobs.append(Case(config, config.encoder if isinstance(one, str) else one, data, test_data))
    return jobs
