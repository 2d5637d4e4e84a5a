"""What is fuzzed: each target makes whole files once, spoils one of them per case and hands it to evalfm's own door."""

from __future__ import annotations

import contextlib
import io
import json
import pickle
import random
import shutil
import sys
from abc import ABC, abstractmethod
from collections import OrderedDict
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pandas as pd
import pydicom
import pydicom.data
import torch
import yaml
from PIL import Image
from safetensors.torch import save_file

from evalfm.data.config import JoinConfig, TableMapping
from evalfm.data.images import image_digest, image_size, read_image
from evalfm.data.importing import import_data
from evalfm.data.joining import join, read_other
from evalfm.data.manifest import Manifest
from evalfm.data.masks import read_mask_file
from evalfm.data.rle import decode
from evalfm.encoders.card import WeightsFacts
from evalfm.encoders.converting import examine
from evalfm.encoders.weights import read_checkpoint
from evalfm.features.tables import PrecomputedSource

from ..analysis.made import binary_table, make_run, signal
from ..squares import make_squares
from .mutations import VALUES, WORDS, spoil_bytes, spoil_text, spoil_tree

CONFIGS = Path(__file__).resolve().parents[2] / "configs"
CARDS = Path(__file__).resolve().parents[2] / "evalfm"


class Target(ABC):
    """One door. ``base`` is a folder that lasts, ``case`` a new one for each case."""

    name: ClassVar[str]

    def __init__(self, base: Path) -> None:
        self.base = base

    @abstractmethod
    def run(self, case: Path, draw: random.Random) -> None:
        """Make one spoilt input in ``case`` and read it."""


def command(*words: object) -> None:
    """Run one verb in this process.

    Raises:
        AssertionError: it ends otherwise than with status 0 or 2, or prints a traceback.
    """
    from evalfm import cli

    told = io.StringIO()
    status: object = 0
    before = sys.argv
    sys.argv = ["evalfm", *map(str, words)]
    try:
        with contextlib.redirect_stdout(told), contextlib.redirect_stderr(told):
            cli.main()
    except SystemExit as end:
        status = end.code or 0
    finally:
        sys.argv = before
    assert status in (0, 2), f"status {status}: {told.getvalue()[-2000:]}"
    assert "Traceback" not in told.getvalue(), told.getvalue()[-2000:]


class Manifests(Target):
    """manifest.csv or .parquet and dataset.yaml of a small data set."""

    name = "manifest"

    def __init__(self, base: Path) -> None:
        super().__init__(base)
        self.data = make_squares(base / "squares", patients=8)
        self.table = self.data.table
        self.facts = (base / "squares" / "dataset.yaml").read_text()

    def run(self, case: Path, draw: random.Random) -> None:
        shutil.copytree(self.base / "squares", case / "d")
        folder = case / "d"
        for old in folder.glob("manifest.*"):
            old.unlink()
        kind = draw.randrange(4)
        if kind == 0:
            (folder / "manifest.csv").write_bytes(spoil_text(self.table.to_csv(index=False), draw))
        elif kind == 1:
            odd_table(self.table, draw).to_parquet(folder / "manifest.parquet")
        elif kind == 2:
            whole = io.BytesIO()
            self.table.to_parquet(whole)
            (folder / "manifest.parquet").write_bytes(spoil_bytes(whole.getvalue(), draw))
        else:
            self.table.to_csv(folder / "manifest.csv", index=False)
            (folder / "dataset.yaml").write_bytes(spoil_yaml(self.facts, draw))
        manifest = Manifest.read(folder)
        manifest.validate(deep=True)
        if draw.random() < 0.2:
            command("data", "check", folder)


def odd_table(table: pd.DataFrame, draw: random.Random) -> pd.DataFrame:
    """A copy with cells, columns or types that a Parquet file may hold and a CSV cannot."""
    odd = table.copy().astype(object)
    column = draw.choice(list(odd.columns))
    kind = draw.randrange(8)
    if kind == 0:
        odd[column] = [[1, 2]] * len(odd)
    elif kind == 1:
        odd[column] = pd.Timestamp("2020-02-29")
    elif kind == 2:
        odd[column] = [b"\xff\x00"] * len(odd)
    elif kind == 3:
        odd[column] = pd.Categorical(["a"] * len(odd))
    elif kind == 4:
        odd[column] = [{"a": 1}] * len(odd)
    elif kind == 5:
        odd = odd.drop(columns=column)
    elif kind == 6:
        odd[column] = [draw.choice((None, "inf", "", "x" * 5000, "a\x00b"))] * len(odd)
    else:
        odd[column] = pd.Series([draw.choice((2**62, 1e300, float("inf"), -5))] * len(odd))
    for name in odd.columns:
        if name != column:
            odd[name] = table[name]
    return odd


def spoil_yaml(text: str, draw: random.Random) -> bytes:
    """``text`` spoilt by lines, by tree, or with a construct of YAML that is made to hurt."""
    kind = draw.randrange(4)
    if kind == 0:
        return spoil_text(text, draw)
    if kind == 1:
        return yaml.safe_dump(spoil_tree(yaml.safe_load(text), draw)).encode()
    if kind == 2:
        return (text + "\n" + hurtful_yaml(draw)).encode()
    tree = yaml.safe_load(text)
    place = draw.choice(list(tree))
    rest = yaml.safe_dump({name: value for name, value in tree.items() if name != place})
    return (rest + f"\n{place}: {draw.choice(WORDS)}\n").encode("utf-8", "surrogatepass")


def hurtful_yaml(draw: random.Random) -> str:
    """Aliases that multiply, deep nesting, self-reference, tags, big numbers."""
    kind = draw.randrange(7)
    if kind == 0:
        width, depth = draw.randrange(2, 12), draw.randrange(5, 30)
        lines = ["a0: &a0 [x, x]"]
        lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * width)}]" for n in range(1, depth)]
        return "\n".join(lines)
    if kind == 1:
        return "deep: " + "[" * draw.choice((50, 2000, 100000)) + "]" * draw.choice((50, 2000))
    if kind == 2:
        return "\n".join(" " * n + f"k{n}:" for n in range(draw.choice((60, 1500))))
    if kind == 3:
        return "self: &s {again: *s}"
    if kind == 4:
        return "x: !!python/object/apply:os.system ['true']\n? [a, b]\n: c"
    if kind == 5:
        return "n: " + "9" * draw.choice((30, 6000)) + "\nd: 2020-02-31\nt: 1:1:1:1:1"
    return "<<: &m {a: 1}\n<<: [*m, *m]\nname: x\nname: y"


class Cards(Target):
    """YAML of encoders, tasks, prompts and studies."""

    name = "yaml"

    def __init__(self, base: Path) -> None:
        super().__init__(base)
        self.texts = {
            "encoder": sorted((CARDS / "encoders" / "cards").glob("*.yaml")),
            "task": sorted((CARDS / "tasks" / "cards").glob("*.yaml")),
            "study": sorted(CONFIGS.glob("*.yaml")),
        }

    def run(self, case: Path, draw: random.Random) -> None:
        kind = draw.choice(list(self.texts))
        path = case / "c.yaml"
        path.write_bytes(spoil_yaml(draw.choice(self.texts[kind]).read_text(), draw))
        if kind == "study":
            from evalfm.study.config import load_study

            load_study(str(path))
        else:
            command("show", kind, path, *(["--json"] if draw.random() < 0.5 else []))


class Pictures(Target):
    """PNG, JPEG, TIFF, GIF, BMP and NPZ, as images and as masks."""

    name = "picture"

    def __init__(self, base: Path) -> None:
        super().__init__(base)
        draw = np.random.default_rng(0)
        grey = draw.integers(0, 255, (40, 36), dtype=np.uint8)
        colour = draw.integers(0, 255, (40, 36, 3), dtype=np.uint8)
        deep = draw.integers(0, 65535, (40, 36), dtype=np.uint16)
        self.files: list[Path] = []
        for suffix in ("png", "jpg", "tif", "gif", "bmp", "webp"):
            for word, pixels in (("grey", grey), ("colour", colour)):
                self._keep(f"{word}.{suffix}", Image.fromarray(pixels))
        self._keep("deep.png", Image.fromarray(deep))
        self._keep("deep.tif", Image.fromarray(deep))
        pages = [Image.fromarray(grey)] * 3
        pages[0].save(base / "pages.tif", save_all=True, append_images=pages[1:])
        pages[0].save(base / "lzw.tif", compression="tiff_lzw")
        pages[0].convert("1").save(base / "bit.tif", compression="group4")
        np.savez(base / "a.npz", image=grey, deep=deep)
        np.savez_compressed(base / "b.npz", image=colour, odd=np.array([None], dtype=object))
        self.files += [base / name for name in ("pages.tif", "lzw.tif", "bit.tif", "a.npz", "b.npz")]

    def _keep(self, name: str, picture: Image.Image) -> None:
        picture.save(self.base / name)
        self.files.append(self.base / name)

    def run(self, case: Path, draw: random.Random) -> None:
        file = draw.choice(self.files)
        path = case / file.name
        path.write_bytes(spoil_bytes(file.read_bytes(), draw))
        name = path.name + (draw.choice(("#image", "#deep", "#odd", "#none")) if path.suffix == ".npz" else "")
        for read in draw.sample((read_image, image_size, image_digest, read_mask_file), 2):
            read(name, case)


class Radiographs(Target):
    """DICOM: bytes spoilt, or elements given other values."""

    name = "dicom"

    TAGS = (
        *("Rows", "Columns", "BitsAllocated", "BitsStored", "HighBit", "PixelRepresentation"),
        *("SamplesPerPixel", "NumberOfFrames", "PhotometricInterpretation", "PlanarConfiguration"),
        *("WindowCenter", "WindowWidth", "RescaleSlope", "RescaleIntercept", "PixelSpacing"),
        *("ImagerPixelSpacing", "Modality", "PatientAge", "PatientSex", "PixelPaddingValue"),
        *("VOILUTFunction", "SmallestImagePixelValue", "PresentationLUTShape", "ViewPosition"),
        *("BurnedInAnnotation"),
    )

    def __init__(self, base: Path) -> None:
        super().__init__(base)
        folder = Path(pydicom.data.__file__).parent / "test_files"
        self.files = [path for path in sorted(folder.glob("*.dcm")) if path.stat().st_size < 150_000]

    def run(self, case: Path, draw: random.Random) -> None:
        file = draw.choice(self.files)
        path = case / "a.dcm"
        if draw.random() < 0.6:
            path.write_bytes(spoil_bytes(file.read_bytes(), draw))
        else:
            try:
                dataset = pydicom.dcmread(file, force=True)
                for _ in range(draw.choice((1, 2, 4))):
                    dataset.__setattr__(
                        draw.choice(self.TAGS), draw.choice((0, 1, -1, 8, 16, 65535, "", "x", "1", [1, 2], None, 0.5))
                    )
                dataset.save_as(path)
            except Exception:
                # pydicom does not write such a value; another case will.
                return
        for read in draw.sample((read_image, image_size, image_digest), 2):
            read("a.dcm", case)


class Weights(Target):
    """safetensors, npz and torch's own files, as weights; and whole pickled models, looked at for conversion."""

    name = "weights"

    def __init__(self, base: Path) -> None:
        super().__init__(base)
        tensors = {"conv.weight": torch.ones(4, 3, 3, 3), "bn.num_batches_tracked": torch.tensor(1)}
        save_file(tensors, base / "w.safetensors")
        np.savez(base / "w.npz", **{name: tensor.numpy() for name, tensor in tensors.items()})
        torch.save(tensors, base / "zip.pt")
        torch.save({"teacher": {"module.conv.weight": tensors["conv.weight"]}, "epoch": 3}, base / "wrapped.pt")
        torch.save(tensors, base / "legacy.pt", _use_new_zipfile_serialization=False)
        torch.save(torch.nn.Linear(3, 2), base / "model.pt")
        self.files = sorted(path for path in base.iterdir() if path.is_file())

    def run(self, case: Path, draw: random.Random) -> None:
        file = draw.choice(self.files)
        path = case / file.name
        path.write_bytes(spoil_bytes(file.read_bytes(), draw) if draw.random() < 0.8 else evil_pickle(draw))
        if draw.random() < 0.8:
            read_checkpoint(path, WeightsFacts(source="path"))
        else:
            examine(path)


def evil_pickle(draw: random.Random) -> bytes:
    """A pickle of a mapping, of containers within containers, of numpy's and others' types, or of chosen opcodes."""
    protocol = draw.randrange(6)
    plain: Any = {f"f{number}": draw.choice((True, 1, 0.5, "x", None)) for number in range(6)}
    kind = draw.randrange(6)
    if kind == 0:
        return spoil_bytes(pickle.dumps(plain, protocol), draw)
    if kind == 1:
        plain = {name: np.bool_(True) for name in plain} | {"n": np.float64(0.5)}
        return spoil_bytes(pickle.dumps(plain, protocol), draw)
    if kind == 2:
        plain = OrderedDict(plain) if draw.random() < 0.5 else pd.DataFrame({"a": [1]})
        return spoil_bytes(pickle.dumps(plain, protocol), draw)
    if kind == 3:
        # Pairs of one another as a key: hashing doubles at each level.
        levels = draw.choice((10, 40, 80))
        return b"\x80\x04}(K\x01" + b"2\x86" * levels + b"K\x01u."
    if kind == 4:
        return b"\x80\x04" + draw.choice(
            (
                b"]" * 100000 + b"a" * 99999 + b".",
                b"\x8b\xff\xff\xff\x7f1.",
                b"B\xff\xff\xff\x7f.",
                b"\x95\xff\xff\xff\xff\xff\xff\xff\x7f}.",
                b"}r\xff\xff\xff\x7f.",
                b"cos\nsystem\n(X\x04\x00\x00\x00truetR.",
                b"cnumpy\ndtype\n(X\x02\x00\x00\x00O8tR.",
                b"cbuiltins\neval\n(X\x03\x00\x00\x001+1tR.",
                b"X\x01\x00\x00\x00aQ.",
                b"\x82\x01.",
            )
        )
    return b"\x80\x04" + bytes(
        draw.choice(b"(.0123FIJKLMNPQRSTUV]abcdeghijloprstu}\x85\x86\x87\x88\x89\x94") for _ in range(60)
    )


class Joined(Target):
    """A second table for `data join`: CSV, Parquet or pickle."""

    name = "join"

    def __init__(self, base: Path) -> None:
        super().__init__(base)
        self.data = make_squares(base / "squares", patients=8)
        self.table = pd.DataFrame(
            {
                "key": self.data.table["id"],
                "value": [0, 1] * (len(self.data.table) // 2) + [0] * (len(self.data.table) % 2),
            }
        )

    def run(self, case: Path, draw: random.Random) -> None:
        kind = draw.randrange(4)
        path = case / draw.choice(("t.pkl", "t.bin", "t.csv"))
        if kind < 2:
            path.write_bytes(evil_pickle(draw))
        elif kind == 2:
            path.write_bytes(spoil_text(self.table.to_csv(index=False), draw))
        else:
            path = case / "t.parquet"
            odd_table(self.table, draw).to_parquet(path)
        other = read_other(path)
        join(self.data, other, JoinConfig(join_on="id=key", labels={"tube": "value"}), "t")


class Embeddings(Target):
    """Tables of embeddings made elsewhere."""

    name = "embeddings"

    def __init__(self, base: Path) -> None:
        super().__init__(base)
        self.data = make_squares(base / "squares", patients=8)
        self.values = np.random.default_rng(0).normal(size=(len(self.data), 3)).round(3)
        self.ids = list(self.data.table["id"])
        self.table = pd.DataFrame(self.values, columns=["a", "b", "c"]).assign(id=self.ids)

    def run(self, case: Path, draw: random.Random) -> None:
        kind = draw.randrange(3)
        if kind == 0:
            path = case / "e.csv"
            path.write_bytes(spoil_text(self.table.to_csv(index=False), draw))
        elif kind == 1:
            path = case / "e.parquet"
            odd_table(self.table, draw).to_parquet(path)
        else:
            path = case / "e.npz"
            np.savez(path, ids=np.array(self.ids), features=self.values)
            path.write_bytes(spoil_bytes(path.read_bytes(), draw))
        PrecomputedSource(self.data, path).features([0, 1])


class Imports(Target):
    """A user's table on its way in."""

    name = "import"

    def __init__(self, base: Path) -> None:
        super().__init__(base)
        self.data = make_squares(base / "squares", patients=8)

    def run(self, case: Path, draw: random.Random) -> None:
        table = self.base / "squares" / f"{case.name}.csv"
        table.write_bytes(spoil_text(self.data.table.to_csv(index=False), draw))
        try:
            mapping = TableMapping(
                csv=str(table),
                name=draw.choice(("mine", *WORDS)),
                image="image",
                id="id",
                patient=draw.choice(("patient", "sex", "nothing")),
                labels={"square": "square"},
                attributes={"age": "age", "sex": "sex"},
                masks={"square": "square_mask"},
            )
        except ValueError:
            return
        finally:
            content = table.read_bytes()
            table.unlink()
        table.write_bytes(content)
        try:
            import_data("table", self.base / "squares", case / "out", mapping=mapping)
        finally:
            table.unlink()


class RunLengths(Target):
    """Masks as run lengths in three dialects."""

    name = "rle"

    def run(self, case: Path, draw: random.Random) -> None:
        text = draw.choice(("1 3 10 5", "0 40 5 1", '{"size": [40, 36], "counts": "0`1"}', "-1", ""))
        spoilt = spoil_text(text, draw).decode("utf-8", "replace")
        size = draw.choice(((40, 36), (1, 1), (0, 5), (3000, 3000)))
        decode(draw.choice(("relative", "absolute", "coco", "file", "x")), spoilt, size)


class Expressions(Target):
    """What follows --where."""

    name = "where"

    PARTS = (
        *("age", "sex", "view", "'PA'", "1", "1e999", "==", "!=", "<", "in", "not in", "and", "or", "not", "(", ")"),
        *("[", "]", ",", "-", "+", "'", '"', "None", "True", ".", "lambda", "__class__", "()", "9" * 5000, "(" * 300),
        *("not " * 2000, "`", "\x00", "é", "if", "for x in age", "**", ":="),
    )

    def __init__(self, base: Path) -> None:
        super().__init__(base)
        self.data = make_squares(base / "squares", patients=8)

    def run(self, case: Path, draw: random.Random) -> None:
        words = [draw.choice(self.PARTS) for _ in range(draw.randrange(1, 9))]
        whole = draw.choice(("age > 30 and sex == 'F'", "sex in ['F', 'M']", "not age < 5"))
        self.data.where(" ".join(words) if draw.random() < 0.6 else spoil_text(whole, draw).decode("utf-8", "replace"))


class Runs(Target):
    """Run folders of others: run.json by tree and by byte, predictions by table and by byte."""

    name = "runs"

    def __init__(self, base: Path) -> None:
        super().__init__(base)
        target = np.tile([0, 1], 40)
        for seed, name in enumerate(("one", "two")):
            table = binary_table(signal(target, 1.0, seed), target)
            table["sex"] = np.where(np.arange(80) % 3 == 0, "F", "M")
            make_run(base / "runs", table, encoder=name)

    def run(self, case: Path, draw: random.Random) -> None:
        shutil.copytree(self.base / "runs", case / "runs")
        record = draw.choice(sorted((case / "runs").rglob("run.json")))
        table = record.parent / "predictions.parquet"
        kind = draw.randrange(5)
        if kind < 2:
            record.write_text(json.dumps(spoil_tree(json.loads(record.read_text()), draw)))
        elif kind == 2:
            record.write_bytes(spoil_bytes(record.read_bytes(), draw))
        elif kind == 3:
            table.write_bytes(spoil_bytes(table.read_bytes(), draw))
        else:
            odd_table(pd.read_parquet(table), draw).to_parquet(table)
        runs = case / "runs"
        words: tuple[object, ...] = draw.choice(
            (
                ("ls", "runs", runs),
                ("compare", runs),
                ("choose", runs),
                ("bias", runs, "--by", "sex"),
                ("report", runs, "--out", case / "r.html"),
                ("show", "run", record.parent),
            )
        )
        command(*words)


class Options(Target):
    """What stands on the command line itself."""

    name = "options"

    def __init__(self, base: Path) -> None:
        super().__init__(base)
        make_squares(base / "squares", patients=8)

    def run(self, case: Path, draw: random.Random) -> None:
        values = [str(each) for each in VALUES if not isinstance(each, dict | list)]
        options = [
            *("--encoder", "--task", "--data", "--head", "--weights", "--where", "--recipe", "--input-size", "--folds"),
            *("--shots", "--associate", "--threshold", "--devices", "--precision", "--prompts", "--batch-size"),
        ]
        whole = {"--encoder": "pixels", "--task": "square", "--data": str(self.base / "squares"), "--baselines": "none"}
        whole["--out"] = str(case / "out")
        whole[draw.choice(options)] = draw.choice((*WORDS, *values, "1000000", "-3", "7"))
        command("probe", *(word for pair in whole.items() for word in pair))


TARGETS: dict[str, type[Target]] = {
    target.name: target
    for target in (
        *(Manifests, Cards, Pictures, Radiographs, Weights, Joined, Embeddings, Imports, RunLengths, Expressions),
        *(Runs, Options),
    )
}
