"""Run folders that anybody may have written: whatever is in them, a verb ends well or with one sentence."""

from __future__ import annotations

import copy
import json
import random
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from typer.testing import CliRunner, Result

from evalfm.cli.app import app
from evalfm.data.manifest import Manifest
from evalfm.errors import EvalfmError
from evalfm.predictions import PREDICTIONS
from evalfm.probing.probe import probe
from evalfm.run import HEAD, RECORD, Run, find_runs
from evalfm.study.results import rows_of, table_of
from evalfm.study.shortcuts import curve_studies, decode_studies

from .analysis.made import GRADES, LABELS, binary_table, class_scores, class_table, label_table, make_run, signal

MUTATIONS = 200
N = 60
TARGET = np.arange(N) % 2 == 0
WHO = {"sex": np.where(np.arange(N) % 3 == 0, "F", "M"), "age": np.arange(N) + 30.0}
VALUES: tuple[Any, ...] = (
    *(None, True, -1, 0, 10**9, 10**30, 1e308, -0.5, "", "x", "[bold]", "[/x]", "<script>", "a\x1b[2Jb", "é" * 3000),
    *([], {}, [None], [[]], ["x"], {"x": None}, {"folds": []}, [{"images": 1}], "../..", "x.py:build"),
)
VERBS: tuple[tuple[str, ...], ...] = (
    ("ls", "runs", "ROOT"),
    ("ls", "runs", "ROOT", "--json"),
    ("show", "run", "RUN"),
    ("show", "run", "RUN", "--json"),
    ("compare", "ROOT"),
    ("choose", "ROOT", "--task", "TASK"),
    ("bias", "ROOT", "--by", "sex,age:50", "--html", "OUT.html", "--markdown", "OUT.md"),
    ("report", "ROOT", "--out", "OUT.html", "--csv", "OUT"),
)


def masks_table(seed: int) -> pd.DataFrame:
    generator = np.random.default_rng(seed)
    area = np.where(TARGET, generator.uniform(0.01, 0.1, N), 0.0)
    who = {"id": [f"i{row}" for row in range(N)], "patient": [f"p{row}" for row in range(N)], **WHO}
    masks = {"dice_ptx": generator.random(N), "area_true_ptx": area, "area_predicted_ptx": generator.random(N) / 10}
    return pd.DataFrame({**who, **masks})


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two encoders, or seeds, and a baseline of each kind of task."""
    out = tmp_path_factory.mktemp("others")
    grades = np.arange(N) % 4
    labels = (np.random.default_rng(3).random((N, 3)) < 0.5).astype(float)
    for number, name in enumerate(("one", "one", "two", "constant")):
        told: dict[str, Any] = {"encoder": name, "seed": number if number < 2 else 0, "baseline": name == "constant"}
        scores = signal(TARGET, 1.0, number) if number < 3 else np.full(N, 0.4)
        make_run(out, binary_table(scores, TARGET).assign(**WHO), task_card={"subgroups": ["sex", "age"]}, **told)
        if number == 1:
            continue
        of_labels = 1 / (1 + np.exp(-(labels + np.random.default_rng(number).normal(size=labels.shape))))
        make_run(out, label_table(labels, of_labels).assign(**WHO), kind="multilabel", classes=LABELS, **told)
        table = class_table(grades, class_scores(grades, 1.0, number)).assign(**WHO)
        make_run(out, table, kind="ordinal", classes=GRADES, **told)
        make_run(out, masks_table(number), kind="segmentation", **told)
        value = np.random.default_rng(number).random(N)
        table = binary_table(value, TARGET)[["id", "patient"]].assign(target=value, prediction=value[::-1], **WHO)
        make_run(out, table, kind="regression", **told)
    return out


def places(content: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Where something stands in a JSON value, at any depth."""
    inside = content.items() if isinstance(content, dict) else enumerate(content) if isinstance(content, list) else ()
    for key, value in inside:
        yield (*path, key)
        yield from places(value, (*path, key))


def mutate_record(path: Path, chance: random.Random) -> None:
    """Drop, replace, rename or add a key at any depth of a record; or damage the file."""
    content = json.loads(path.read_text(encoding="utf-8"))
    if chance.random() < 0.08:
        text = path.read_text(encoding="utf-8")
        cut = chance.randrange(len(text))
        path.write_text(chance.choice([text[:cut], "[" * 5000, "null", "", text.replace("0", "NaN", 3)]))
        return
    # A depth first: most places are deep in grids that nobody reads.
    every = list(places(content))
    depth = chance.choice(sorted({len(each) for each in every}))
    place = chance.choice([each for each in every if len(each) == depth])
    holder = content
    for key in place[:-1]:
        holder = holder[key]
    what = chance.choice(["drop", "replace", "replace", "replace", "rename", "add"])
    if what == "drop" or (what == "rename" and isinstance(holder, list)):
        del holder[place[-1]]
    elif what == "replace":
        holder[place[-1]] = copy.deepcopy(chance.choice(VALUES))
    elif what == "rename":
        holder["other"] = holder.pop(place[-1])
    elif isinstance(holder, dict):
        holder["more"] = copy.deepcopy(chance.choice(VALUES))
    path.write_text(json.dumps(content))


def mutate_table(path: Path, chance: random.Random) -> None:
    """Change a column, its type, its values or its rows; or damage the file."""
    if chance.random() < 0.3:
        raw = bytearray(path.read_bytes())
        if chance.random() < 0.5:
            raw = raw[: chance.randrange(len(raw))]
        else:
            for _ in range(chance.choice([1, 20, 400])):
                raw[chance.randrange(len(raw))] = chance.randrange(256)
        path.write_bytes(bytes(raw))
        return
    table = pd.read_parquet(path)
    name = chance.choice(list(table.columns))
    values: list[Any] = [np.nan, 1e300, -3.0, np.inf, "word", None, True, [1, 2], b"x"]
    what = chance.choice(["drop", "fill", "cell", "rows", "twice", "rename", "type"])
    if what == "drop":
        table = table.drop(columns=name)
    elif what == "fill":
        value = chance.choice(values)
        table[name] = [value] * len(table)
    elif what == "cell":
        table[name] = table[name].astype(object)
        table.at[chance.randrange(len(table)), name] = chance.choice([np.nan, None])
    elif what == "rows":
        table = table[: chance.choice([0, 1, len(table) - 1])]
    elif what == "twice":
        table = pd.concat([table, table])
    elif what == "rename":
        table = table.rename(columns={name: chance.choice(["target", "fold", "x", "score_"])})
        table = table.loc[:, ~table.columns.duplicated()]
    else:
        table[name] = table[name].astype(str if chance.random() < 0.5 else "category")
    table.to_parquet(path)


def mutated(root: Path, chance: random.Random) -> Path:
    """A run below ``root``, after something of it was changed."""
    folder = chance.choice(sorted(path.parent for path in root.rglob(RECORD)))
    what = chance.random()
    if what < 0.6:
        mutate_record(folder / RECORD, chance)
    elif what < 0.9:
        mutate_table(folder / PREDICTIONS, chance)
    else:
        chance.choice([folder / PREDICTIONS, folder / HEAD, folder / RECORD]).unlink()
    return folder


def ends_well(done: Result) -> bool:
    """Whether the command line would end with status 0 or 2, and no traceback."""
    return done.exit_code in (0, 2) or isinstance(done.exception, EvalfmError)


def test_no_mutated_run_ends_a_verb_with_a_traceback(made: Path, tmp_path: Path) -> None:
    chance = random.Random(16)
    faults, good, bad = [], 0, 0
    for number in range(MUTATIONS):
        root = tmp_path / str(number)
        shutil.copytree(made, root)
        folder = mutated(root, chance)
        task = chance.choice(["ptx-cls", "ptx-seg", "chexpert5", "density", "ctr"])
        verb = chance.choice(VERBS)
        # The task of the changed run is asked, so that the change matters; reports of one task are quick.
        kept = folder.parent.name
        asked = [
            each.replace("ROOT", str(root)).replace("RUN", str(folder)).replace("OUT", str(tmp_path / "out"))
            for each in verb
        ]
        asked = [kept if each == "TASK" else each for each in asked]
        if verb[0] in ("compare", "report", "bias"):
            asked += ["--task", kept if chance.random() < 0.8 else task]
        done = CliRunner().invoke(app, asked)
        good, bad = good + (done.exit_code == 0), bad + (done.exit_code != 0)
        if not ends_well(done):
            faults.append(f"{number}: {' '.join(asked)}: {done.exception!r}")
        shutil.rmtree(root)
    assert not faults, "\n".join(faults)
    # The others are reported: one changed run of several ends little.
    assert good > bad, (good, bad)


def test_rows_of_results_and_studies_of_mutated_runs(made: Path, tmp_path: Path) -> None:
    chance = random.Random(17)
    read = 0
    for number in range(150):
        root = tmp_path / str(number)
        shutil.copytree(made / "two", root / "two")
        folder = chance.choice(sorted(path.parent for path in root.rglob(RECORD)))
        mutate_record(folder / RECORD, chance)
        said: list[str] = []
        runs = find_runs(root, say=said.append)
        assert len(runs) + len(said) == 5
        table_of(row for run in runs for row in rows_of("s", run, root))
        for studies in (decode_studies, curve_studies):
            with pytest.raises(EvalfmError):
                studies(runs, "sex", _Nothing())  # type: ignore[arg-type]
        read += len(runs)
        shutil.rmtree(root)
    assert 4 * 150 <= read < 5 * 150


class _Nothing:
    def get(self, name: str) -> Manifest:
        raise EvalfmError(f"There is no data set {name}.")


def test_no_mutated_run_ends_a_prediction_with_a_traceback(squares: Manifest, tmp_path: Path, home: Path) -> None:
    chance = random.Random(18)
    (run,) = probe("hog", "square", data=squares, heads=["linear"], baselines="none", out=tmp_path / "made")
    for number in range(40):
        folder = tmp_path / str(number)
        shutil.copytree(run.folder, folder)
        if number % 2:
            mutate_record(folder / RECORD, chance)
        else:
            raw = bytearray((folder / HEAD).read_bytes())
            for _ in range(chance.choice([1, 5, 50])):
                raw[chance.randrange(len(raw))] = chance.randrange(256)
            (folder / HEAD).write_bytes(bytes(raw) if chance.random() < 0.7 else bytes(raw[: len(raw) // 2]))
        out = ["--out", str(tmp_path / f"out{number}")]
        done = CliRunner().invoke(app, ["predict", str(folder), "--data", str(squares.folder), *out])
        assert ends_well(done), (number, done.exception)


def test_no_mutated_episodes_end_a_report_with_a_traceback(
    squares: Manifest, made: Path, tmp_path: Path, home: Path
) -> None:
    chance = random.Random(19)
    options: dict[str, Any] = {"heads": ["linear", "prototypes"], "shots": [1, 2], "episodes": 3, "queries": 4}
    runs = probe("hog", "square", data=squares, out=tmp_path / "made", baselines="none", **options)
    one = next(path.parent for path in sorted((made / "two" / "ctr").rglob(RECORD)))
    for number in range(40):
        root = tmp_path / str(number)
        for place, run in enumerate(runs):
            shutil.copytree(run.folder, root / str(place))
        mutate_record(root / "0" / RECORD, chance)
        done = CliRunner().invoke(app, ["report", str(root), str(one), "--out", str(tmp_path / "page.html")])
        assert done.exit_code == 0, done.exception
        assert "the mean over few-shot episodes" in (tmp_path / "page.html").read_text()


NAME = "[bold]x[/y] <script>alert(1)</script> | [a](javascript:b) \x1b[31m"


def test_names_of_others_are_shown_as_they_are_and_steer_nothing(tmp_path: Path) -> None:
    hostile = binary_table(signal(TARGET, 1.0, 1), TARGET).assign(sex=np.where(np.arange(N) % 3 == 0, NAME, "M"))
    card = {"title": NAME, "subgroups": ["sex"]}
    for place, name in enumerate(("one", NAME)):
        run = make_run(tmp_path / "runs", hostile, encoder="one" if place == 0 else "two", task_card=card)
        content = json.loads((run.folder / RECORD).read_text())
        content["encoder"]["name"] = name
        content["cautions"] = [{"code": "synthetic", "sentence": f"Synthetic data: {NAME}"}]
        (run.folder / RECORD).write_text(json.dumps(content))
    shown = NAME.replace("\x1b", "\N{REPLACEMENT CHARACTER}")
    page, markdown = tmp_path / "page.html", tmp_path / "told.md"
    root = str(tmp_path / "runs")
    for asked in (
        ["ls", "runs", root],
        ["compare", root],
        ["choose", root, "--task", "ptx-cls"],
        ["show", "run", str(run.folder)],
        ["bias", root, "--by", "sex", "--html", str(tmp_path / "bias.html"), "--markdown", str(markdown)],
        ["report", root, "--out", str(page)],
    ):
        done = CliRunner().invoke(app, asked, env={"COLUMNS": "400"})
        assert done.exit_code == 0, (asked, done.exception)
        assert "\x1b[31m" not in done.stdout
        if asked[0] != "report":
            assert "[bold]x[/y] <script>alert(1)</script>" in done.stdout, asked
    for written in (page, tmp_path / "bias.html"):
        text = written.read_text()
        assert "<script>alert" not in text
        assert "[bold]x[/y] &lt;script&gt;alert(1)&lt;/script&gt;" in text
    text = markdown.read_text()
    assert "<script" not in text
    assert "&lt;script>alert(1)&lt;/script> \\| [a\\](javascript:b)" in text
    assert Run.read(run.folder).encoder == shown


def test_a_bar_shows_a_name_that_looks_like_markup(monkeypatch: pytest.MonkeyPatch) -> None:
    from evalfm.cli.console import Bars

    monkeypatch.setenv("FORCE_COLOR", "1")
    assert list(Bars().track([1, 2], "[/x] of [bold]", 2)) == [1, 2]


def test_a_damaged_run_named_alone_is_an_error_and_among_others_a_warning(made: Path, tmp_path: Path) -> None:
    shutil.copytree(made, tmp_path / "runs")
    folder = next(path.parent for path in sorted((tmp_path / "runs" / "two" / "ptx-cls").rglob(RECORD)))
    (folder / PREDICTIONS).write_bytes((folder / PREDICTIONS).read_bytes()[:700])
    for asked in (["compare"], ["report", "--out", str(tmp_path / "r.html")], ["bias", "--by", "sex"]):
        alone = CliRunner().invoke(app, [asked[0], str(folder), *asked[1:]])
        assert isinstance(alone.exception, EvalfmError)
        assert f"{PREDICTIONS} is not what its run.json says" in str(alone.exception)
        beside = CliRunner().invoke(app, [asked[0], str(tmp_path / "runs"), *asked[1:], "--task", "ptx-cls"])
        assert beside.exit_code == 0, beside.exception
        assert beside.stderr.count("Left out:") == 1
        assert str(folder) in beside.stderr
    with pytest.warns(UserWarning, match="Left out: .*predictions"):
        assert len(find_runs(tmp_path / "runs", with_predictions=True)) == len(find_runs(tmp_path / "runs")) - 1


@pytest.mark.parametrize(
    ("column", "value", "told"),
    [
        ("score_ptx", np.nan, "'score_ptx' must hold a finite number"),
        ("score_ptx", 1e300, "'score_ptx' holds a number without bounds"),
        ("score_ptx", "word", "'score_ptx' must hold numbers"),
        ("score_ptx", None, "'score_ptx'"),
        ("target", 2.0, "'target' must hold numbers of classes, 0 to 1"),
        ("target", 1.0, "60 test images have the finding, and 30 by the record"),
        ("split", "train", "'split' must say val or test"),
        ("split", "val", "0 test rows of 60 test images"),
        ("id", "i", "an image is tested twice"),
        ("patient", "p", "it tests 1 patients of 60"),
        ("patient", 3, "'patient' must hold a word in every row"),
        ("fold", 0, "it has folds and the record none"),
        ("sex", ["a"], "'sex' holds list<"),
    ],
)
def test_predictions_are_what_the_record_says(tmp_path: Path, column: str, value: Any, told: str) -> None:
    run = make_run(tmp_path, binary_table(signal(TARGET, 1.0, 1), TARGET).assign(**WHO))
    table = pd.read_parquet(run.folder / PREDICTIONS)
    table[column] = [value] * N
    table.to_parquet(run.folder / PREDICTIONS)
    with pytest.raises(EvalfmError) as caught:
        run.predictions()
    assert told in str(caught.value)
    assert str(run.folder) in str(caught.value)


def test_a_table_of_many_rows_is_refused_before_it_is_read(tmp_path: Path) -> None:
    run = make_run(tmp_path, binary_table(signal(TARGET, 1.0, 1), TARGET))
    wide = pd.DataFrame({"id": pd.Series(["x"] * 3_000_000, dtype="category")})
    wide.to_parquet(run.folder / PREDICTIONS)
    with pytest.raises(EvalfmError, match="it has 3,000,000 rows, more than the record counts"):
        run.predictions()


@pytest.mark.parametrize("name", ["evil.py:build", "evil.py", "evil.py:build@x", "evil.yaml", "evil.yaml@mean"])
def test_a_run_of_others_names_no_code_to_run(made: Path, tmp_path: Path, name: str) -> None:
    (tmp_path / "evil.py").write_text("raise SystemExit('was run')")
    run = make_run(
        tmp_path,
        binary_table(signal(TARGET, 1.0, 1), TARGET),
        encoder=f"{tmp_path}/{name}",
        settings={"encoder": {"name": f"{tmp_path}/{name}", "weights": "hub"}},
    )
    for studies in (decode_studies, curve_studies):
        with pytest.raises(EvalfmError, match="names an encoder of code"):
            studies([run], "sex", _Nothing())  # type: ignore[arg-type]
