"""Every path that a verb takes, given what no path should be: one sentence, exit 2, nothing hung or replaced."""

from __future__ import annotations

import inspect
import os
import signal
import stat
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args, get_type_hints

import pytest

from evalfm import cli
from evalfm.cli.app import app
from evalfm.data.manifest import Manifest
from evalfm.probing.probe import probe

from ..squares import make_squares

pytestmark = pytest.mark.skipif(os.name != "posix", reason="pipes, devices and users as POSIX has them")

LONG = "a" * 5000
UNIVERSAL = {
    "a user who is not": "~nosuchuser/x",
    "a zero byte": "x\0y",
    "5,000 letters": LONG,
    "a long name in a folder": f"nowhere/{LONG}/x.yaml",
    "links in a circle": "{bad}/circle",
    "behind links in a circle": "{bad}/circle/x.yaml",
    "bytes that are no text": "\udcff\udcfe.yaml",
    "nothing": "",
    "a user who is not, with a suffix": "~nosuchuser/x.yaml",
    "a user who is not, with code": "~nosuchuser/x.py:build",
    "a file as a folder": "{bad}/file/x.yaml",
}
"""What is refused wherever a path is read or written."""

INPUTS = [
    ".",
    "{bad}/pipe",
    "{bad}/pipe.yaml",
    "{bad}/pipe.csv",
    "/dev/zero",
    "{bad}/folder.yaml",
    "{bad}/nowhere",
    "{bad}/gone",
]
"""What is refused wherever something is read."""

BASE: dict[str, list[str]] = {
    "demo": [],
    "probe": ["--encoder=pixels", "--task=square", "--data={data}", "--head=linear", "--baselines=none", "--out={out}"],
    "study": ["config={study}"],
    "predict": ["run={run}", "--data={data}", "--out={out}"],
    "compare": ["runs={run}"],
    "bias": ["models={run}", "--by=sex"],
    "counterfactual": ["run={run}", "--data={others}", "--mask=square"],
    "robustness": ["runs={run}", "--data={data}", "--perturbations=gamma=2"],
    "choose": ["runs={run}", "--task=square"],
    "sample-size": ["--auroc=.8", "--width=.1"],
    "report": ["runs={run}", "--out={out}"],
    "export": ["runs={run}", "--out={out}", "--format=csv", "--figures=none"],
    "embed": ["--encoder=pixels", "--data={data}", "--out={out}.parquet"],
    "fetch": ["names=hog", "--dry-run"],
    "doctor": ["--encoder=resnet18", "--weights=random"],
    "convert": ["file={data}/manifest.parquet", "--out={out}.safetensors", "--yes"],
    "ls runs": ["out={run}"],
    "show encoder": ["name=hog"],
    "show task": ["name=ptx-cls"],
    "show data": ["name={data}"],
    "show run": ["folder={run}"],
    "show image": ["folder={run}"],
    "data join": ["folder={data}", "--with={bad}/other.csv", "--join-on=id", "--label=odd"],
    "data overlap": ["one={data}"],
    "data import": ["source=table", "--root={data}", "--csv={bad}/table.csv", "--out={out}", "--image=image",
                    "--label=square"],
    "data check": ["folder={data}"],
    "data split": ["folder={data}"],
    "data make": ["what=phantom", "--out={out}", "--images=1", "--size=64"],
    "data relocate": ["folder={data}", "root={images}"],
    "data register": ["folder={data}", "--name=squares"],
    "data import-predictions": ["table={run}/predictions.parquet", "--task=square", "--data={data}", "--name=theirs",
                                "--out={out}"],
}  # fmt: skip
"""A call of each verb that would go well."""

READ = """
probe: encoder task data test_data weights prompts
study: config data
predict: run data weights encoder
compare: runs
bias: models
counterfactual: run data trained_on weights encoder
robustness: runs data trained_on weights encoder
choose: runs
report: runs
export: runs
embed: encoder data weights
fetch: names
doctor: encoder weights
convert: file
ls runs: out
show encoder: name
show task: name
show data: name
show run: folder
show image: folder data
data join: folder other
data overlap: one other
data import: root official label_table mapping csv
data check: folder
data split: folder official
data register: folder
data relocate: folder root
data import-predictions: table task data test_data
"""
WRITTEN_FOLDER = """
demo: out
probe: out
study: out
predict: out
bias: out
robustness: out
report: csv
export: out
data import: out
data split: export
data make: out
data import-predictions: out
"""
WRITTEN_FILE = """
bias: html markdown
robustness: html
report: out
export: archive
show image: out
convert: out
data overlap: out
embed: out
data check: html
show encoder: write_card
"""
WORDS = """
probe: heads recipe shots associate where test_where threshold devices address pooling layers
study: encoder task weights recipe where heads shots devices address adaptation shard
predict: device
compare: task head metric reference cohort average_over label_noise
bias: by adjust task label target score patient lesion_area device label_noise
counterfactual: mask device
robustness: perturbations by device
choose: task max_params licence cohort average_over
report: task title
export: format figures task metrics
show image: ids label
embed: devices address where shard pooling layers
doctor: precision device
ls runs: metrics
ls encoders: paradigm domain licence commercial min_parameters max_parameters
data join: known join_on labels label_kinds attributes masks source
data import: source stratify subset join_on name image id patient study split labels attributes masks
data import: class_folders label_kinds levels mask_unknown mask_values unknown_words
data split: stratify test_where
data make: what dial
data register: name
data import-predictions: name where test_where score join_on threshold pretraining_data
"""


def listed(text: str) -> list[tuple[str, str]]:
    return [(verb, name) for verb, _, names in (line.partition(": ") for line in text.split("\n") if line)
            for name in names.split()]  # fmt: skip


@dataclass(frozen=True)
class Parameter:
    """How a verb is given something: by position or by an option."""

    position: int | None
    option: str
    several: bool


def parameters() -> dict[tuple[str, str], Parameter]:
    """Everything that a verb takes as text or as a path, of every verb."""

    def verbs(group: Any, before: str) -> Iterator[tuple[str, Callable[..., Any]]]:
        for each in group.registered_commands:
            yield before + (each.name or each.callback.__name__), each.callback
        for each in group.registered_groups:
            yield from verbs(each.typer_instance, f"{each.name} ")

    found = {}
    for verb, callback in verbs(app, ""):
        hints = get_type_hints(callback, include_extras=True)
        position = 0
        for name in inspect.signature(callback).parameters:
            kind, *extras = get_args(hints[name])
            argument = type(extras[0]).__name__ == "ArgumentInfo"
            if any(word in (kind, *get_args(kind)) for word in (str, Path, list[str], list[Path])):
                said = [word for word in getattr(extras[0], "param_decls", None) or () if word.startswith("--")]
                option = said[0] if said else "--" + name.replace("_", "-")
                several = any(word in (kind, *get_args(kind)) for word in (list[str], list[Path]))
                found[verb, name] = Parameter(position if argument else None, option, several)
            position += argument
    return found


PARAMETERS = parameters()


def test_every_parameter_of_every_verb_is_known_here() -> None:
    sorted_in = [*listed(READ), *listed(WRITTEN_FOLDER), *listed(WRITTEN_FILE), *listed(WORDS)]
    assert sorted(sorted_in) == sorted(PARAMETERS)


@pytest.fixture(scope="module")
def places(squares: Manifest, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """A data set, a run, a study, and a folder of what nobody should name."""
    folder = tmp_path_factory.mktemp("places")
    data = Manifest(squares.info.model_copy(update={"root": str(squares.root)}), squares.table, folder / "data")
    data.write(folder / "data")
    (run,) = probe("pixels", "square", data=folder / "data", out=folder / "runs", heads=["linear"], baselines="none")
    (folder / "study.yaml").write_text(
        f"schema: 1\nname: small\ntitle: Small\ndata: {folder / 'data'}\nencoders: [pixels]\ntasks: [square]\n"
    )
    bad = folder / "bad"
    bad.mkdir()
    (bad / "circle").symlink_to("circle")
    (bad / "gone").symlink_to("nowhere")
    (bad / "file").write_text("")
    for name in ("pipe", "pipe.yaml", "pipe.csv"):
        os.mkfifo(bad / name)
    (bad / "folder.yaml").mkdir()
    squares.table[["id"]].assign(odd=1).to_csv(bad / "other.csv", index=False)
    squares.table[["image", "square", "patient"]].to_csv(bad / "table.csv", index=False)
    return {
        "data": str(folder / "data"),
        "images": str(squares.root),
        "others": str(make_squares(folder / "others", seed=1, name="others").folder),
        "run": str(run.folder),
        "study": str(folder / "study.yaml"),
        "bad": str(bad),
    }


@pytest.fixture
def call(
    places: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., tuple[int, str]]:
    """Run a verb as the command line does, with one parameter set; the exit status and what was said."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("EVALFM_HOME", str(tmp_path / "home"))

    def too_long(*_: object) -> None:
        raise AssertionError("The command hangs.")

    def run(verb: str, name: str, value: str) -> tuple[int, str]:
        parameter = PARAMETERS[verb, name]
        added = {("bias", "out"): ["--decode"]}.get((verb, name), [])
        added += ["--plan"] if verb == "study" and name != "out" else []
        named = {**places, "out": str(tmp_path / "out")}
        words: list[str] = []
        given = [each.partition("=")[::2] for each in BASE.get(verb, [])]
        positional = [(option, said) for option, said in given if not option.startswith("--")]
        if parameter.position is not None:
            others = [said for option, said in positional if PARAMETERS[verb, option].position != parameter.position]
            words = [said.format(**named) for said in others]
            words.insert(parameter.position, value)
        else:
            words = [said.format(**named) for _, said in positional]
        for option, said in given:
            if option.startswith("--") and option != parameter.option:
                words += [option, said.format(**named)] if said else [option]
        if parameter.position is None:
            words += [parameter.option, value]
        monkeypatch.setattr(sys, "argv", ["evalfm", *verb.split(), *words, *added])
        signal.signal(signal.SIGALRM, too_long)
        signal.alarm(60)
        try:
            with pytest.raises(SystemExit) as caught:
                cli.main()
        finally:
            signal.alarm(0)
        said = capsys.readouterr()
        assert isinstance(caught.value.code, int)
        return caught.value.code, said.out + said.err

    return run


def refused(told: tuple[int, str], *, lines: int = 1) -> None:
    """One sentence and status 2; an answer of ``doctor`` is a line among others."""
    status, said = told
    assert status == 2, told
    assert "Traceback" not in said
    sentences = [line for line in said.splitlines() if line.startswith(("Error: ", "FAILED"))]
    usage = "Usage: " in said
    assert len(sentences) == 1 or usage, said
    assert len(said) < 4000, "what was given is not repeated at full length"


@pytest.mark.parametrize(("verb", "name"), [*listed(READ), *listed(WRITTEN_FOLDER), *listed(WRITTEN_FILE)])
def test_what_is_no_path_is_refused_wherever_one_is_taken(
    call: Callable[..., tuple[int, str]], places: dict[str, str], tmp_path: Path, verb: str, name: str
) -> None:
    for value in UNIVERSAL.values():
        refused(call(verb, name, value.format(**places)))
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(("verb", "name"), listed(READ))
def test_what_is_no_file_is_neither_read_nor_waited_for(
    call: Callable[..., tuple[int, str]], places: dict[str, str], verb: str, name: str
) -> None:
    for value in INPUTS:
        refused(call(verb, name, value.format(**places)))
        if (verb == "probe" and name == "encoder") or verb == "embed":
            refused(call(verb, name, f"precomputed:{value.format(**places)}"))


@pytest.mark.parametrize(("verb", "name"), listed(WRITTEN_FOLDER))
def test_a_folder_to_write_is_no_file_pipe_or_device(
    call: Callable[..., tuple[int, str]], places: dict[str, str], verb: str, name: str
) -> None:
    for value in ("{bad}/file", "{bad}/pipe", "/dev/null", "{bad}/file/below"):
        refused(call(verb, name, value.format(**places)))
    assert stat.S_ISCHR(os.stat("/dev/null").st_mode)
    assert stat.S_ISFIFO(os.stat(f"{places['bad']}/pipe").st_mode)


@pytest.mark.parametrize(("verb", "name"), listed(WRITTEN_FILE))
def test_a_file_to_write_is_no_folder_and_lies_in_one(
    call: Callable[..., tuple[int, str]], places: dict[str, str], verb: str, name: str
) -> None:
    for value in (".", "..", "/", "{bad}", "{bad}/nowhere/x.html", "{bad}/file/x.html", "{bad}/gone/x.html"):
        refused(call(verb, name, value.format(**places)))


@pytest.mark.parametrize(("verb", "name"), listed(WORDS))
def test_words_that_are_no_paths_end_in_no_traceback_either(
    call: Callable[..., tuple[int, str]], verb: str, name: str
) -> None:
    for value in ("[/red]", "~nosuchuser/x", "[bold]{x}%s\\", "ä" * 3000, "\x1b[31m"):
        status, said = call(verb, name, value)
        assert status in (0, 2), (value, said)
        assert "Traceback" not in said
        assert "\x1b[31m" not in said.partition("Error: ")[2]
    for value in ("x\0y", "\udcff"):
        refused(call(verb, name, value))
