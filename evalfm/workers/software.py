"""Which evalfm, torch and Python a process has, and whether two processes have the same."""

from __future__ import annotations

import functools
import hashlib
import sys
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version

import evalfm
from evalfm.workers.job import PACKAGE

CODE = "code"


def software() -> dict[str, str]:
    """Versions of what makes a run's figures, by name; ``code`` is a digest of evalfm's own files.

    >>> sorted(software())
    ['code', 'evalfm', 'python', 'torch']
    """
    try:
        torch = version("torch")
    except PackageNotFoundError:
        torch = "none"
    python = f"{sys.version_info.major}.{sys.version_info.minor}"
    return {"evalfm": evalfm.__version__, "torch": torch, "python": python, CODE: code_digest()}


def differences(here: Mapping[str, str], there: Mapping[str, str]) -> list[str]:
    """What ``there`` has otherwise than ``here``, in words; empty where nothing.

    >>> differences({"torch": "2.9.0", "code": "a"}, {"torch": "2.8.0", "code": "b"})
    ['torch 2.8.0 instead of 2.9.0']
    >>> differences({"torch": "2.9.0", "code": "a"}, {"torch": "2.9.0", "code": "b"})
    ['other code under the same version of evalfm']
    """
    found = [
        f"{name} {there.get(name, 'none')} instead of {own}"
        for name, own in here.items()
        if name != CODE and there.get(name) != own
    ]
    if not found and there.get(CODE) != here.get(CODE):
        return ["other code under the same version of evalfm"]
    return found


@functools.cache
def code_digest() -> str:
    """A digest of the package's code and cards, which two checkouts under one version may have otherwise."""
    files = {
        path.relative_to(PACKAGE).as_posix(): path for ending in ("py", "yaml") for path in PACKAGE.rglob(f"*.{ending}")
    }
    digest = hashlib.sha256()
    for name, path in sorted(files.items()):
        # Studies are beside the package in a checkout, and in it where it is installed.
        if not name.startswith("_configs/"):
            digest.update(f"{name}\0".encode() + hashlib.sha256(path.read_bytes()).digest())
    return digest.hexdigest()[:16]
