"""What is shown before it is fetched, what is fetched and what is not, and what a study lacks without a network."""

from __future__ import annotations

import hashlib
import json
import re
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import ClassVar

import huggingface_hub.constants
import pytest
import yaml
from typer.testing import CliRunner, Result

from evalfm.cli.app import app
from evalfm.data.manifest import Manifest
from evalfm.encoders import hub
from evalfm.encoders.registry import named_card
from evalfm.errors import EvalfmError
from evalfm.study import Study, load_study, needs
from evalfm.study.cohorts import Manifests
from evalfm.study.needs import check_offline, encoders_of, fetch_all, needs_of

CONTENT = bytes(range(256)) * 4096
CUT = 300_000


class FakeHub(BaseHTTPRequestHandler):
    """A hub that has every file, but for the repositories that ``refused`` says, and may break off in the middle."""

    refused: ClassVar[dict[str, tuple[int, str]]] = {}
    cut: ClassVar[set[str]] = set()
    asked: ClassVar[list[tuple[str, str, int]]] = []

    def do_HEAD(self) -> None:
        if self.path == "/" or not self.refuse("HEAD"):
            self.answer(0)

    def do_GET(self) -> None:
        given = self.headers.get("Range")
        start = int(given.removeprefix("bytes=").split("-")[0]) if given else 0
        if not self.refuse("GET", start):
            self.answer(start)
            end = CUT if any(word in self.path for word in self.cut) else None
            self.wfile.write(CONTENT[start:end])

    def refuse(self, method: str, start: int = 0) -> bool:
        if "/resolve/" in self.path:
            self.asked.append((method, self.path, start))
        for word, (status, code) in self.refused.items():
            if word in self.path:
                self.send_response(status)
                self.send_header("X-Error-Code", code)
                self.send_header("Content-Length", "0")
                self.end_headers()
                return True
        return False

    def answer(self, start: int) -> None:
        self.send_response(206 if start else 200)
        self.send_header("Content-Length", str(len(CONTENT) - start))
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(CONTENT) - 1}/{len(CONTENT)}")
        self.send_header("ETag", f'"{hashlib.sha256(self.path.encode()).hexdigest()}"')
        commit = re.search(r"/resolve/([0-9a-f]{40})/", self.path)
        self.send_header("X-Repo-Commit", commit[1] if commit else "2" * 40)
        self.end_headers()

    def log_message(self, *arguments: object) -> None:
        """Nothing."""


@pytest.fixture
def cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """An empty cache, and no network."""
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    return tmp_path / "hub"


@pytest.fixture
def network(cache: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[type[FakeHub]]:
    FakeHub.refused, FakeHub.cut, FakeHub.asked = {}, set(), []
    server = ThreadingHTTPServer(("127.0.0.1", 0), FakeHub)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    host = f"http://127.0.0.1:{server.server_port}"
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", host)
    template = f"{host}/{{repo_id}}/resolve/{{revision}}/{{filename}}"
    monkeypatch.setattr(huggingface_hub.constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
    monkeypatch.setattr(time, "sleep", lambda seconds: None)
    yield FakeHub
    server.shutdown()
    server.server_close()


def evalfm(*arguments: object) -> Result:
    return CliRunner().invoke(app, list(map(str, arguments)), env={"COLUMNS": "200"})


def bodies(network: type[FakeHub]) -> list[str]:
    return [path for method, path, _ in network.asked if method == "GET"]


def test_sizes_and_terms_are_shown_and_nothing_is_fetched(network: type[FakeHub], cache: Path):
    asked = evalfm("fetch", "rad-dino,clip-l14", "medsiglip", "--dry-run")
    assert asked.exit_code == 0, asked.output
    for words in (("rad-dino", "microsoft/rad-dino", "1.0 MB", "MIT", "yes"), ("medsiglip", "HAI-DEF", "ask")):
        assert any(all(word in line for word in words) for line in asked.stdout.splitlines()), words
    assert "medsiglip is gated: accept its terms at http://127.0.0.1" in asked.stdout
    assert bodies(network) == []
    assert not list(cache.rglob("*.safetensors"))


def test_without_a_yes_nothing_is_fetched(network: type[FakeHub]):
    asked = evalfm("fetch", "rad-dino")
    assert isinstance(asked.exception, EvalfmError)
    assert "--yes" in str(asked.exception)
    assert "MIT" in asked.stdout
    told = json.loads(evalfm("fetch", "rad-dino", "--json").stdout)
    assert [each["cached"] for each in told["encoders"]] == [False]
    assert bodies(network) == []


@pytest.mark.parametrize(("answer", "fetched"), [("n\n", False), ("y\n", True)])
def test_on_a_terminal_it_asks_after_the_table(
    answer: str, fetched: bool, network: type[FakeHub], monkeypatch: pytest.MonkeyPatch
):
    class Terminal:
        def isatty(self) -> bool:
            return True

    monkeypatch.setattr("evalfm.cli.fetch.sys", type("Sys", (), {"stdin": Terminal()}))
    asked = CliRunner().invoke(app, ["fetch", "rad-dino"], input=answer)
    assert asked.exit_code == 0, asked.output
    assert asked.stdout.index("MIT") < asked.stdout.index("under these terms?")
    assert bool(bodies(network)) == fetched


def test_weights_tokenizer_and_text_tower_are_fetched_once(network: type[FakeHub], cache: Path):
    asked = evalfm("fetch", "clip-l14", "biovil-t", "rad-dino", "hog", "--yes")
    assert asked.exit_code == 0, asked.output
    assert "3 encoder(s) in the cache, 0 could not be had." in asked.stdout
    names = {Path(path).name for path in bodies(network)}
    assert names >= {"tokenizer.json", "vocab.txt", "pytorch_model.bin"}
    for name in ("clip-l14", "biovil-t", "rad-dino"):
        files = hub.files_of(named_card(name), text=True)
        assert all(file.cached() is not None for file in files)
        revision = named_card(name).weights.revision
        assert any(f"/resolve/{revision}/" in path for path in bodies(network))
    network.asked.clear()
    again = evalfm("fetch", "clip-l14", "biovil-t", "rad-dino", "--yes")
    assert again.exit_code == 0
    assert bodies(network) == []
    # What is in the cache needs neither a yes nor a network.
    huggingface_hub.constants.HF_HUB_OFFLINE = True
    assert evalfm("fetch", "rad-dino").exit_code == 0


def test_one_that_cannot_be_had_is_said_and_stops_no_other(network: type[FakeHub]):
    network.refused = {"medsiglip": (403, "GatedRepo"), "dinov2-base": (404, "RepoNotFound")}
    asked = evalfm("fetch", "medsiglip", "dinov2-base", "ark-plus", "rad-dino", "--yes")
    assert asked.exit_code == 1, asked.output
    lines = asked.stdout.splitlines()
    for words in (
        ("medsiglip: ", "gated", "hf auth login"),
        ("dinov2-base: ", "or it needs a login"),
        ("ark-plus: ", "on no hub"),
    ):
        assert any(all(word in line for word in words) for line in lines[-4:]), words
    assert "1 encoder(s) in the cache, 3 could not be had." in asked.stdout
    told = json.loads(evalfm("fetch", "medsiglip", "rad-dino", "--yes", "--json").stdout)
    assert [each["cached"] for each in told["encoders"]] == [False, True]
    assert ["gated" in (each["failure"] or "") for each in told["encoders"]] == [True, False]


def test_after_a_break_only_what_is_not_whole_is_fetched_again(
    network: type[FakeHub], caplog: pytest.LogCaptureFixture
):
    network.cut = {"tokenizer.json"}
    (first,) = fetch_all(needs_of(["clip-l14"]).encoders)
    assert first.failure is not None
    assert "tokenizer.json of clip-l14 could not be fetched whole" in first.failure
    assert "run again" in first.failure
    network.cut, before = set(), len(network.asked)
    (second,) = fetch_all(needs_of(["clip-l14"]).encoders)
    assert second.failure is None
    assert {Path(path).name for _, path, _ in network.asked[before:]} == {"tokenizer.json"}
    paths = [file.cached() for file in hub.files_of(named_card("clip-l14"), text=True)]
    assert all(path is not None and path.read_bytes() == CONTENT for path in paths)


def test_a_file_that_is_not_the_pinned_one_is_a_failure(network: type[FakeHub], tmp_path: Path):
    card = named_card("rad-dino")
    content = yaml.safe_load((Path(hub.__file__).parent / "cards" / "rad-dino.yaml").read_text())
    content["weights"]["sha256"] = "0" * 64
    content["name"] = "pinned"
    path = tmp_path / "pinned.yaml"
    path.write_text(yaml.safe_dump(content))
    (done,) = fetch_all(needs_of([str(path)]).encoders)
    assert done.failure is not None
    assert "pins by its SHA-256" in done.failure
    assert card.weights.repository is not None


def test_a_disk_that_is_too_small_is_said_before(network: type[FakeHub], monkeypatch: pytest.MonkeyPatch):
    usage = type("Usage", (), {"free": 1000})
    monkeypatch.setattr(needs.shutil, "disk_usage", lambda path: usage)
    asked = evalfm("fetch", "rad-dino", "--yes")
    assert isinstance(asked.exception, EvalfmError)
    assert "0.0 GB are free" in str(asked.exception)
    assert bodies(network) == []


def test_without_a_network_every_failure_is_a_sentence(cache: Path):
    asked = evalfm("fetch", "rad-dino", "dinov2-base", "--yes")
    assert asked.exit_code == 1
    assert asked.stdout.count("the hub cannot be reached: fetch") == 2
    assert "~0.3 GB" in asked.stdout


def test_a_study_names_its_encoders_once_and_its_data(cache: Path):
    told = needs_of(["feature-quality", "vlm-radiology", "rad-dino", "ptx-cls"])
    names = [each.name for each in told.encoders]
    assert len(names) == len(set(names))
    study = load_study("feature-quality")
    assert {each.name for each in study.encoders} <= set(names)
    assert {each.name: each.here for each in told.data}["siim-acr"] is False
    assert "ptx-cls" in {each.name for each in told.data}


def test_what_starts_from_random_weights_needs_none(squares: Manifest):
    content = {"schema": 2, "name": "s", "title": "S", "data": str(squares.folder), "tasks": ["square"]}
    drawn = Study.model_validate(content | {"encoders": [{"name": "rad-dino", "weights": "random"}]})
    assert [each.files for each in encoders_of(drawn)] == [[]]
    scratch = Study.model_validate(content | {"encoders": ["resnet50"], "adaptations": ["scratch"]})
    assert [each.files for each in encoders_of(scratch)] == [[]]
    beside = [{"encoder": "unet-resnet34"}, {"encoder": "resnet50"}, {"encoder": "resnet18", "adaptation": "full"}]
    supervised = Study.model_validate(content | {"supervised": beside})
    assert [bool(each.files) for each in encoders_of(supervised)] == [False, False, True]


def test_the_text_tower_is_wanted_where_a_head_reads_text(squares: Manifest):
    content = {"schema": 2, "name": "s", "title": "S", "data": str(squares.folder), "encoders": ["clip-l14"]}
    for heads, wanted in ((["linear"], False), (["linear", "zeroshot"], True)):
        study = Study.model_validate(content | {"tasks": ["square"], "heads": heads})
        names = [file.name for need in encoders_of(study) for file in need.files]
        assert ("tokenizer.json" in names) == wanted


@pytest.mark.parametrize("kind", ["study", "card", "task"])
def test_a_file_is_known_for_what_it_is(kind: str, cache: Path, tmp_path: Path):
    path = tmp_path / "mine.yaml"
    contents = {
        "study": "schema: 2\nname: m\ntitle: M\ndata: phantom\nencoders: [rad-dino]\ntasks: [ptx-cls]\n",
        "card": (Path(hub.__file__).parent / "cards" / "rad-dino.yaml").read_text(),
        "task": "schema: 1\nname: mine\nkind: binary\ntitle: T\ntarget: [edema]\nmetrics: [auroc]\nheads: [linear]\n",
    }
    path.write_text(contents[kind])
    told = needs_of([str(path)])
    assert len(told.encoders) == (0 if kind == "task" else 1)
    assert len(told.data) == (0 if kind == "card" else 1)


def test_an_unknown_name_is_refused_with_those_that_are_near(cache: Path):
    with pytest.raises(EvalfmError, match=r"no study, encoder or task 'rad-dinno'. Did you mean 'rad-dino'"):
        needs_of(["rad-dinno"])


# Without a network


def lacking(data: str) -> Study:
    content = {
        "schema": 2,
        "name": "away",
        "title": "Away",
        "data": data,
        "encoders": ["rad-dino", "dinov2-base", {"name": "resnet50", "weights": "nowhere.pt"}, "hog", "chexzero"],
        "tasks": ["square", {"name": "ptx-cls", "data": "not-here"}],
    }
    return Study.model_validate(content)


def test_all_that_lacks_is_named_in_one_message(cache: Path, squares: Manifest, home: Path):
    with pytest.raises(EvalfmError) as refused:
        check_offline(lacking(str(squares.folder)), Manifests())
    message = str(refused.value)
    assert "lacks 5 things to run offline" in message
    assert "`evalfm fetch`" in message
    for part in (
        "rad-dino needs model.safetensors of microsoft/rad-dino at revision 2ec9ca0e",
        "dinov2-base needs ",
        "nowhere.pt, which is not there",
        "chexzero are on no hub",
        "evalfm data register DIR --name not-here",
    ):
        assert message.count(part) == 1, part
    assert "hog" not in message


def test_offline_on_the_command_line_refuses_before_anything_is_written(
    cache: Path, squares: Manifest, home: Path, tmp_path: Path
):
    config = tmp_path / "away.yaml"
    config.write_text(yaml.safe_dump(json.loads(lacking(str(squares.folder)).model_dump_json(by_alias=True))))
    asked = evalfm("study", config, "--offline", "--out", tmp_path / "runs")
    assert isinstance(asked.exception, EvalfmError)
    assert "lacks 5 things" in str(asked.exception)
    assert not (tmp_path / "runs").exists()


def test_files_that_are_gone_are_named_with_the_weights(cache: Path, tmp_path: Path, squares: Manifest, home: Path):
    folder = tmp_path / "moved"
    squares.write(folder)
    info = yaml.safe_load((folder / "dataset.yaml").read_text())
    (folder / "dataset.yaml").write_text(yaml.safe_dump(info | {"root": str(tmp_path / "disk")}))
    content = {"schema": 2, "name": "a", "title": "A", "data": str(folder), "encoders": ["rad-dino"]}
    with pytest.raises(EvalfmError) as refused:
        check_offline(Study.model_validate(content | {"tasks": ["square"]}), Manifests())
    assert "rad-dino needs" in str(refused.value)
    assert "mount the disk" in str(refused.value)


def test_what_is_here_runs_with_the_hub_switched_off(
    network: type[FakeHub], squares: Manifest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    seen = []
    run = needs.Manifests.get

    def get(self: Manifests, name: str) -> Manifest:
        seen.append(huggingface_hub.constants.HF_HUB_OFFLINE)
        return run(self, name)

    monkeypatch.setattr(Manifests, "get", get)
    content = {"schema": 2, "name": "s", "title": "S", "data": str(squares.folder), "encoders": ["hog"]}
    config = tmp_path / "s.yaml"
    config.write_text(yaml.safe_dump(content | {"tasks": ["square"], "heads": ["linear"], "baselines": "none"}))
    asked = evalfm("study", config, "--offline", "--out", tmp_path / "runs")
    assert asked.exit_code == 0, asked.output
    assert "1 runs; table:" in asked.stdout
    assert seen[-1] is True
    assert network.asked == []
    # Whoever goes on in the process has the hub as it was.
    assert huggingface_hub.constants.HF_HUB_OFFLINE is False
