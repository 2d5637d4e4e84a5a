"""Whole pickled models to safetensors: shown first, then read in a process of its own that runs nothing they name."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import safe_open

from evalfm.data.atomic import file_place, new_file
from evalfm.encoders.card import WeightsFacts
from evalfm.encoders.weight_files import kind_of_weights, unsafe_globals, zip_members
from evalfm.errors import EvalfmError
from evalfm.paths import file_digest, input_file

READER = Path(__file__).with_name("_unpickling.py")
KEPT_ENVIRONMENT = ("PATH", "LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH", "SYSTEMROOT", "TMPDIR", "TEMP", "TMP")
"""Variables that the reading process is given; tokens and proxies are not among them."""


@dataclass(frozen=True)
class Examined:
    """A pickle that evalfm does not load as it is.

    Attributes:
        path: of the file; ``sha256`` of its bytes; ``size`` in bytes.
        imports: what the pickle asks for beside tensors, by module and name, sorted; it would be run by an ordinary
            reader.
    """

    path: Path
    sha256: str
    size: int
    imports: tuple[str, ...]


@dataclass(frozen=True)
class Converted:
    """The file made, how many tensors and values it holds, and entries of the pickle that were no tensors by name."""

    path: Path
    tensors: int
    values: int
    left_out: tuple[str, ...]


def examine(path: Path) -> Examined:
    """What the pickle ``path`` would import, seen by disassembly; nothing of it is run.

    Raises:
        EvalfmError: there is no such file, it needs no conversion, or it is of a kind that cannot be converted.
    """
    size = input_file(path).stat().st_size
    try:
        kind = kind_of_weights(path)
        if kind is None:
            raise EvalfmError(f"{path} is no checkpoint of torch, or it is incomplete; fetch it again.")
        if kind != "torch":
            raise EvalfmError(f"{path} needs no conversion: give it to --weights as it is.")
        if zipfile.is_zipfile(path) and any(name.endswith("constants.pkl") for name in zip_members(path)):
            raise EvalfmError(
                f"{path} is a TorchScript program, which evalfm does not convert; save the state dict of "
                "torch.jit.load where you trust it."
            )
        imports = unsafe_globals(path, WeightsFacts(source="path"))
    except EvalfmError:
        raise
    except Exception as error:
        # The archive's reader raises whatever a damaged one makes it trip over.
        raise EvalfmError(f"{path} is damaged or incomplete ({error}); fetch it again.") from None
    if not imports:
        raise EvalfmError(f"{path} names nothing but tensors and needs no conversion: give it to --weights as it is.")
    return Examined(path, file_digest(path), size, tuple(imports))


def convert(examined: Examined, out: Path, *, force: bool = False) -> Converted:
    """Write the tensors of an examined file to ``out`` as safetensors, whole or not at all.

    A process of its own reads the pickle, without the environment's secrets and without the caller's modules; every
    class and function in it is replaced by an empty stand-in. Names that share a tensor get a copy each. The
    metadata hold the source's name and SHA-256.

    Args:
        examined: what :func:`examine` gave.
        out: ends in ``.safetensors``; an existing file is replaced with ``force`` only.
        force: replace it.

    Raises:
        EvalfmError: ``out`` is there already or cannot be written, the file has changed or is damaged, or it holds
            no plain tensors.
    """
    _check_target(examined, out, force)
    if file_place(out) is None:
        raise EvalfmError(f"{out} is a pipe or device; give --out the name of a file.")
    metadata = {"format": "pt", "source": examined.path.name, "source_sha256": examined.sha256}
    with new_file(out) as partial:
        report = _read_apart(examined.path, partial, metadata)
        if file_digest(examined.path) != examined.sha256:
            raise EvalfmError(f"{examined.path} changed while it was read; convert it again.")
        if "error" in report:
            raise EvalfmError(f"{examined.path} {report['error']}.")
        with safe_open(partial, framework="pt") as file:
            assert len(file.keys()) == report["tensors"], "another number of tensors was written than is said"
        _check_target(examined, out, force)
    return Converted(out, report["tensors"], report["values"], tuple(report["left_out"]))


def _check_target(examined: Examined, out: Path, force: bool) -> None:
    if out.suffix != ".safetensors":
        raise EvalfmError(f"{out} must end in .safetensors; give --out another name.")
    if not out.parent.is_dir():
        raise EvalfmError(f"There is no folder {out.parent}; make it first.")
    if out.exists() and out.samefile(examined.path):
        raise EvalfmError(f"{out} is the file to convert; give --out another name.")
    if out.exists() and not force:
        raise EvalfmError(f"{out} is there already; give --out another name, or --force to replace it.")


def _read_apart(source: Path, target: Path, metadata: dict[str, str]) -> dict[str, Any]:
    """What the reading process reports; it ends with this one, however that ends."""
    command = [sys.executable, "-I", str(READER), str(source.resolve()), str(target.resolve()), json.dumps(metadata)]
    environment = {name: os.environ[name] for name in KEPT_ENVIRONMENT if name in os.environ}
    # A session of its own: Ctrl-C reaches this process alone, which then ends the other.
    with (
        tempfile.TemporaryFile() as errors,
        subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=errors,
            env=environment,
            start_new_session=True,
        ) as process,
    ):
        try:
            assert process.stdout is not None
            # Not communicate(), which would close the pipe whose end tells the process that this one is gone.
            said = process.stdout.read()
            process.wait()
        except BaseException:
            process.kill()
            raise
        errors.seek(0)
        failure = errors.read().decode(errors="replace").strip()
    try:
        report: dict[str, Any] = json.loads(said)
    except ValueError:
        last = failure.splitlines()[-1] if failure else f"it ended with {process.returncode}"
        raise EvalfmError(f"{source} could not be read ({last}); free memory or fetch it again.") from None
    return report
