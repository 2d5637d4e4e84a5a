"""What other packages plug in by entry point: found by name, imported when asked for, each fault one sentence."""

from __future__ import annotations

import hashlib
import os
import re
import sys
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from functools import lru_cache
from importlib.metadata import EntryPoint, entry_points
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Generic, TypeVar

from evalfm.errors import EvalfmError

T = TypeVar("T")
Made = TypeVar("Made")
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")


@dataclass(frozen=True)
class PlugIn(Generic[T]):
    """One thing that another package offers; its code is not imported before ``load``.

    Attributes:
        what: the kind of thing: ``encoder``, ``head``, ``source``, ``task`` or ``metric``.
        point: the entry point, whose name is the word on the command line.
        read: makes what is wanted of the name and the object behind the entry point, or refuses with ``EvalfmError``.
        fault: why its name cannot be used, or empty.
    """

    what: str
    point: EntryPoint
    read: Callable[[str, Any], T]
    fault: str = ""

    @property
    def origin(self) -> str:
        """The package and the entry point."""
        return f"{package_of(self.point)} ({self.point.value})"

    @property
    def version(self) -> str:
        """The package with its version."""
        return f"{package_of(self.point)} {self.point.dist.version if self.point.dist is not None else ''}".rstrip()

    @property
    def code(self) -> str | None:
        """SHA-256 of the file that it stands in, which may change while the version does not; None without a file."""
        specification = find_spec(self.point.module)
        path = Path(specification.origin or "") if specification is not None else Path()
        return hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else None

    def refused(self, reason: str) -> EvalfmError:
        """The error that names the package, the entry point and ``reason``."""
        return EvalfmError(f"The {self.what} {self.point.name!r} of {self.origin} {reason}; fix or uninstall it.")

    def load(self) -> T:
        """What it offers.

        Raises:
            EvalfmError: the name is taken, the import fails, or it is not what it should be.
        """
        if self.fault:
            raise self.refused(self.fault)
        return self.guarded(lambda: self.read(self.point.name, self.point.load()))

    def failed(self, error: BaseException) -> EvalfmError:
        """The error that says how its code, once it was loaded, has failed."""
        return self.refused(f"fails on these predictions ({_first_line(error)})")

    def guarded(self, call: Callable[[], Made]) -> Made:
        """What ``call`` gives, which runs the package's code.

        Raises:
            EvalfmError: it fails, in whatever way.
        """
        try:
            return call()
        except EvalfmError as error:
            raise self.refused(f"cannot be used ({_first_line(error).rstrip('.')})") from error
        except (Exception, SystemExit) as error:
            raise self.refused(f"cannot be loaded ({_first_line(error)})") from error


def find_plugins(what: str, built_in: Collection[str], read: Callable[[str, Any], T]) -> dict[str, PlugIn[T]]:
    """What the installed packages offer in the group ``evalfm.<what>s``, by name; nothing is imported.

    A name that evalfm itself or a second package has too is in the answer with its fault, so that neither is taken.

    >>> find_plugins("no-such-thing", (), lambda name, loaded: loaded)
    {}
    """
    plugins: dict[str, PlugIn[T]] = {}
    for point in installed_points(f"evalfm.{what}s"):
        other = plugins.get(point.name)
        fault = ""
        if NAME.fullmatch(point.name) is None:
            fault = "has a name with other signs than letters, digits, '.', '_' and '-'"
        elif point.name in built_in:
            fault = "has the name of one of evalfm's own"
        elif other is not None and other.point.value != point.value:
            fault = f"has the name of one of {other.origin}"
        plugins[point.name] = PlugIn(what, point, read, fault)
    return dict(sorted(plugins.items()))


def installed_points(group: str) -> tuple[EntryPoint, ...]:
    """The entry points of ``group``, read again when a package was installed since."""
    return _points(group, tuple((place, _changed(place)) for place in sys.path))


@lru_cache(maxsize=16)
def _points(group: str, places: tuple[tuple[str, int], ...]) -> tuple[EntryPoint, ...]:
    return tuple(entry_points(group=group))


def _changed(place: str) -> int:
    try:
        return os.stat(place or ".").st_mtime_ns
    except OSError:
        return 0


def load_all(plugins: Mapping[str, PlugIn[T]]) -> tuple[dict[str, T], dict[str, str]]:
    """Those of ``plugins`` that load, by name, and of each other one why it does not."""
    loaded, broken = {}, {}
    for name, plugin in plugins.items():
        try:
            loaded[name] = plugin.load()
        except EvalfmError as error:
            broken[name] = str(error)
    return loaded, broken


def package_of(point: EntryPoint) -> str:
    """The name of the package that brings ``point``; the module's where none is known."""
    return point.dist.name if point.dist is not None else point.module.partition(".")[0]


def _first_line(error: BaseException) -> str:
    lines = str(error).splitlines()
    return lines[0] if lines else type(error).__name__
