"""Records that evalfm 0.1 wrote, schema 1, as records of schema 2; the one place that knows the old form."""

from __future__ import annotations

import re
from typing import Any

from evalfm.cautions import Code

NOTES: tuple[tuple[str, Code], ...] = (
    ("Synthetic data: ", "synthetic"),
    ("Random weights: ", "random-weights"),
    ("Patients unknown: ", "patients-unknown"),
    ("Contamination: ", "contamination"),
    ("Trained from random weights ", "trained-from-random"),
    ("Unconfirmed: ", "unconfirmed-card"),
    ("No commit of the weights ", "unpinned-weights"),
    ("The weights of .* are another file ", "other-weights"),
    ("The (names of the )?(encoder's )?tensors ", "renamed-weights"),
    ("(The input is|Films are resized by|.* interpolates the positions) ", "input-changed"),
    ("LoRA (of rank|leaves out) ", "adaptation"),
    ("Memory was short", "memory"),
    (r"The task's cohort \(", "cohort-not-applied"),
    ("Association of label and ", "association"),
    ("Val has fewer than ", "scarce-val"),
    ("One class only in train or in val", "single-class"),
    ("Base-to-novel: ", "base-to-novel"),
    ("No train image shows ", "unseen-class"),
    ("The best (C|alpha|k|learning rate)\\b", "grid-edge"),
    ("[0-9]+ of [0-9]+ features are constant ", "constant-features"),
    ("The solver stopped ", "solver-stopped"),
    ("Episodes draw from one pool ", "overlapping-episodes"),
)
"""How the notes of schema 1 begin, and the code of each; any other is ``other``."""
UNLEARNT = re.compile(r".* has random weights: it has learnt nothing\.")
"""What the encoder said beside the run's own sentence."""


def migrated(content: dict[str, Any]) -> dict[str, Any]:
    """The content of a run.json of schema 1 in the form of schema 2; what is not of it stays."""
    new = {name: value for name, value in content.items() if name != "notes"}
    new["schema"] = 2
    notes = content.get("notes")
    if isinstance(notes, list):
        new["cautions"] = cautions_of(notes)
    data, config, prompts = content.get("data"), content.get("config"), content.get("prompts")
    if isinstance(data, dict):
        new["data"] = {"splits" if name == "parts" else name: value for name, value in data.items()}
    if isinstance(config, dict):
        names = {"floor": "baseline", "floors": "baselines"}
        new["config"] = {names.get(name, name): value for name, value in config.items() if value is not None}
    if isinstance(prompts, dict) and isinstance(prompts.get("by_template"), list):
        new["prompts"] = {**prompts, "by_template": [_of_template(each) for each in prompts["by_template"]]}
    return new


def cautions_of(notes: list[Any]) -> list[Any]:
    """The notes with their codes and folds; what is no text stays, and is refused by the record.

    >>> cautions_of(["Fold 2: The best C for 'mass', 100, lies at the upper edge of the grid."])[0]["code"]
    'grid-edge'
    """
    repeated = any(isinstance(note, str) and note.startswith("Random weights: ") for note in notes)
    return [
        _caution(note) if isinstance(note, str) else note
        for note in notes
        if not (repeated and isinstance(note, str) and UNLEARNT.fullmatch(note))
    ]


def _caution(note: str) -> dict[str, Any]:
    """The code, the sentence, and the fold that the note began with."""
    begin = re.match(r"Fold ([0-9]{1,9}): ", note)
    sentence = note[begin.end() :] if begin else note
    code: Code = next((code for start, code in NOTES if re.match(start, sentence)), "other")
    if UNLEARNT.fullmatch(sentence):
        code = "random-weights"
    return {"code": code, "sentence": sentence, "fold": int(begin[1]) - 1 if begin else None}


def _of_template(each: Any) -> Any:
    if not isinstance(each, dict):
        return each
    estimate = {name: value for name, value in each.items() if name != "template"}
    return {name: each[name] for name in each if name == "template"} | {"estimate": estimate}
