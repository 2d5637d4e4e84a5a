"""More of what is fuzzed: folders as sets are published, and every small file that a verb reads beside them."""

from __future__ import annotations

import gzip
import importlib
import inspect
import json
import os
import random
import shutil
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pandas as pd
import yaml

from evalfm.data.importing import import_data
from evalfm.data.registered import registered
from evalfm.tasks.prompts import prompt_set

from ..squares import make_squares
from .mutations import WORDS, spoil_bytes, spoil_text, spoil_tree
from .targets import TARGETS, Target, command, odd_table, spoil_yaml

LAYOUTS = (
    *("candid_ptx", "chexlocalize", "coop", "density", "dicom", "jsrt", "medimeta", "mermed", "mimic_cxr_jpg"),
    *("nih_cxr14", "padchest", "siim_acr", "vindr_cxr", "wingspan_ctr"),
)
"""Sources whose test makes a whole folder as it is published."""


def spoil_file(path: Path, draw: random.Random) -> None:
    """Spoil a file in the way of its kind."""
    content = path.read_bytes()
    suffix = path.suffix.lower()
    text = content.decode("utf-8", "replace")
    if suffix == ".gz" and draw.random() < 0.7:
        try:
            text = gzip.decompress(content).decode("utf-8", "replace")
        except (OSError, EOFError, zlib.error):
            # It is spoilt already.
            return
        path.write_bytes(gzip.compress(spoil_text(text, draw)))
    elif suffix == ".json" and draw.random() < 0.8:
        path.write_text(json.dumps(spoil_tree(json.loads(content), draw)))
    elif suffix in (".yaml", ".yml"):
        path.write_bytes(spoil_yaml(text, draw))
    elif suffix in (".csv", ".txt", ".json"):
        path.write_bytes(spoil_text(text, draw))
    elif suffix in (".parquet",) and draw.random() < 0.6:
        odd_table(pd.read_parquet(path), draw).to_parquet(path)
    elif suffix == ".npy" and draw.random() < 0.5:
        odd = (np.float64(1), np.zeros((0, 3)), np.array(["a", "b"]), np.zeros((4, 2, 2)), np.array([1e300, np.nan]))
        np.save(path, draw.choice(odd))
    else:
        path.write_bytes(spoil_bytes(content, draw))


class Sources(Target):
    """Folders of data sets in their published layout, one or two files of them spoilt, lost, or of another kind."""

    name = "sources"

    def __init__(self, base: Path) -> None:
        super().__init__(base)
        self.roots = {}
        for name in LAYOUTS:
            made = importlib.import_module(f"tests.data.sources.test_{name}")
            (base / name).mkdir()
            self.roots[name] = inspect.unwrap(made.root)(base / name).relative_to(base / name)
        self.roots["medmnist"] = Path()
        (base / "medmnist").mkdir()
        parts = {f"{part}_images": np.zeros((3, 5, 6), np.uint8) for part in ("train", "val", "test")}
        parts |= {f"{part}_labels": np.array([[0], [1], [0]], np.uint8) for part in ("train", "val", "test")}
        np.savez(base / "medmnist/breastmnist.npz", **parts)
        for name in ("montgomery", "shenzhen"):
            self.roots[name] = Path()
            published = importlib.import_module("tests.data.sources.published")
            (base / name / "ClinicalReadings").mkdir(parents=True)
            word = "MCUCXR" if name == "montgomery" else "CHNCXR"
            for stem in (f"{word}_0001_0", f"{word}_0104_1"):
                published.write_picture(base / name / f"CXR_png/{stem}.png")
                (base / name / f"ClinicalReadings/{stem}.txt").write_text("Patient's Sex: F\nPatient's Age: 027Y\n")

    def run(self, case: Path, draw: random.Random) -> None:
        name = draw.choice(list(self.roots))
        shutil.copytree(self.base / name, case / "set", symlinks=True)
        files = sorted(path for path in (case / "set").rglob("*") if path.is_file())
        told = [path for path in files if path.suffix.lower() not in (".png", ".jpg", ".gif", ".tiff", ".img")]
        for _ in range(draw.choice((1, 1, 2))):
            path = draw.choice(told if told and draw.random() < 0.8 else files)
            if not path.is_file():
                continue
            kind = draw.randrange(12)
            if kind > 2:
                spoil_file(path, draw)
                continue
            path.unlink()
            if kind == 1:
                path.mkdir()
            elif kind == 2:
                path.symlink_to(draw.choice((path.name, "/dev/zero", "..", "/nowhere")))
        import_data(
            name.replace("_", "-"), case / "set" / self.roots[name], case / "out", burned_in_checked=name == "dicom"
        )


PROMPTS = {
    "schema": 1,
    "name": "square",
    "templates": ["a film of {}", "{} is seen"],
    "context": "a film of {}",
    "classes": {"square": {"names": ["a square", "squares"], "sentences": ["There is a square."]}},
    "absent": {"square": {"names": ["nothing"]}},
}
MAPPING: dict[str, Any] = {
    "csv": "m.csv",
    "name": "mine",
    "image": "image",
    "id": "id",
    "patient": "patient",
    "labels": {"square": "square"},
    "attributes": {"age": "age", "sex": "sex"},
    "masks": {"square": "square_mask"},
    "label_kinds": {"square": "binary"},
    "mask_values": {"square": [255]},
    "unknown": ["NA"],
}
EPISODES = {
    "schema": 2,
    "name": "x",
    "title": "X",
    "data": "phantom",
    "encoders": ["pixels"],
    "tasks": [{"name": "square"}],
    "shots": [1, 2],
    "episodes": 3,
    "heads": ["linear"],
}


class SmallFiles(Target):
    """Prompts, mappings of columns, episodes, lists of a split, the list of registered names, dataset.yaml in full."""

    name = "files"

    def __init__(self, base: Path) -> None:
        super().__init__(base)
        self.data = make_squares(
            base / "squares",
            patients=8,
            mask_values={"square": [255]},
            levels={"sex": ["F", "M"]},
            label_kinds={"size": "number", "sex": "class"},
            label_source={"square": "mask", "size": "mask", "sex": "image"},
        )
        self.kinds: tuple[Callable[[Path, random.Random], None], ...] = (
            *(self.prompts, self.mapping, self.episodes, self.lists, self.registered, self.dataset),
        )

    def run(self, case: Path, draw: random.Random) -> None:
        draw.choice(self.kinds)(case, draw)

    def prompts(self, case: Path, draw: random.Random) -> None:
        path = case / draw.choice(("p.yaml", "p.json"))
        content = yaml.safe_dump(PROMPTS) if path.suffix == ".yaml" else json.dumps(PROMPTS["classes"])
        path.write_text(content)
        spoil_file(path, draw)
        prompt_set("square", "binary", ("square",), "templates", path)

    def mapping(self, case: Path, draw: random.Random) -> None:
        shutil.copytree(self.base / "squares", case / "d")
        self.data.table.to_csv(case / "d/m.csv", index=False)
        (case / "m.yaml").write_bytes(spoil_yaml(yaml.safe_dump(MAPPING), draw))
        command("data", "import", "table", "--root", case / "d", "--mapping", case / "m.yaml", "--out", case / "o")

    def episodes(self, case: Path, draw: random.Random) -> None:
        (case / "e.yaml").write_bytes(spoil_yaml(yaml.safe_dump(EPISODES), draw))
        words = ("--data", self.base / "squares", "--out", case / "o", "--plan")
        command("study", case / "e.yaml", *words)

    def lists(self, case: Path, draw: random.Random) -> None:
        shutil.copytree(self.base / "squares", case / "d")
        words: list[object] = []
        for part in ("train", "val", "test"):
            rows = self.data.table[self.data.table["split"] == part]
            path = case / f"{part}.txt"
            path.write_text("\n".join(rows["id"]) + "\n")
            if draw.random() < 0.4:
                spoil_file(path, draw)
            words += ["--official", path]
        command("data", "split", case / "d", "--force", *words, "--export", case / draw.choice(("e", "d", "train.txt")))

    def registered(self, case: Path, draw: random.Random) -> None:
        home = Path(os.environ["EVALFM_HOME"])
        home.mkdir(exist_ok=True)
        path = home / "data.json"
        path.write_text(json.dumps({"a": str(self.base / "squares"), "b": "/nowhere", "c": draw.choice(WORDS)}))
        if draw.random() < 0.7:
            spoil_file(path, draw)
        try:
            command("data", "check", draw.choice(("a", "b", "c")))
            command("ls", "data")
            registered()
        finally:
            path.unlink()

    def dataset(self, case: Path, draw: random.Random) -> None:
        shutil.copytree(self.base / "squares", case / "d")
        path = case / "d/dataset.yaml"
        path.write_bytes(spoil_yaml(path.read_text(), draw))
        command(*draw.choice((("data", "check", case / "d", "--html", case / "r.html"), ("show", "data", case / "d"))))


class Applied(Target):
    """A real run of somebody else's, every file of it, applied to data, asked for again, or told of."""

    name = "applied"
    ASKED: ClassVar = ("--encoder", "pixels", "--task", "square", "--baselines", "none", "--head", "linear")

    def __init__(self, base: Path) -> None:
        super().__init__(base)
        self.squares = base / "squares"
        make_squares(self.squares, patients=24)
        command("probe", *self.ASKED, "--data", self.squares, "--out", base / "runs")
        (self.run_folder,) = [path.parent for path in (base / "runs").rglob("run.json")]
        command("predict", self.run_folder, "--data", self.squares, "--out", base / "predicted")
        command("embed", "--similarity", "--encoder", "pixels,hog", "--data", self.squares, "--out", base / "quality")
        words = ("--shots", "1", "--episodes", "3", "--queries", "2", "--head", "linear", "--out", base / "episodes")
        command("probe", "--encoder", "pixels", "--task", "square", "--data", self.squares, *words)

    def run(self, case: Path, draw: random.Random) -> None:
        for name in ("runs", "predicted", "quality", "episodes"):
            shutil.copytree(self.base / name, case / name)
        run = case / self.run_folder.relative_to(self.base)
        kind = draw.randrange(5)
        folder = (run, run, case / "predicted", case / "quality", case / "episodes")[kind]
        suffixes = (".json", ".parquet", ".safetensors")
        spoil_file(draw.choice(sorted(path for path in folder.rglob("*") if path.suffix in suffixes)), draw)
        predicted = case / ("predicted" if kind == 2 else "new")
        if kind < 3:
            words: tuple[object, ...] = ("predict", run, "--data", self.squares, "--out", predicted)
            if kind == 0 and draw.random() < 0.5:
                words = ("probe", *self.ASKED, "--data", self.squares, "--out", case / "runs")
            command(*words)
        else:
            command("report", case / "runs", folder, "--out", case / "r.html", "--csv", case / "csv")
            if kind == 4:
                words = ("--shots", "1", "--episodes", "3", "--queries", "2", "--head", "linear", "--out", folder)
                command("probe", "--encoder", "pixels", "--task", "square", "--data", self.squares, *words)


class Bombs(Target):
    """Small tables that hold much: columns of one value, long words often, compressed text."""

    name = "bombs"

    def __init__(self, base: Path) -> None:
        super().__init__(base)
        self.data = make_squares(base / "squares", patients=8)

    def run(self, case: Path, draw: random.Random) -> None:
        import pyarrow as pa
        import pyarrow.parquet as pq

        rows = draw.choice((10, 1000, 10**6, 4 * 10**6))
        shutil.copytree(self.base / "squares", case / "d")
        for old in (case / "d").glob("manifest.*"):
            old.unlink()
        table = self.data.table
        kind = draw.randrange(3)
        if kind == 0:
            word = draw.choice(("x", "x" * 1000, "x" * 10**6))
            values = pa.DictionaryArray.from_arrays(pa.array(np.zeros(rows, np.int32)), pa.array([word]))
            whole = pa.table(dict.fromkeys(table.columns[: draw.choice((1, 3))], values))
            pq.write_table(whole, case / "d/manifest.parquet", compression="zstd", store_schema=draw.random() < 0.5)
        elif kind == 1:
            line = ",".join(map(str, table.iloc[0])) + "\n"
            text = ",".join(table.columns) + "\n" + line * min(rows, 3 * 10**5)
            (case / "d/manifest.csv.gz").write_bytes(gzip.compress(text.encode()))
        else:
            whole = pa.table({"id": pa.array(np.zeros(rows, np.int8))})
            pq.write_table(whole, case / "d/manifest.parquet", compression="zstd")
        from evalfm.data.columns import read_table

        for path in (case / "d").glob("manifest.*"):
            if path.stat().st_size < 10_000_000:
                read_table(path)


TARGETS.update({target.name: target for target in (Sources, SmallFiles, Applied, Bombs)})
