"""Which results a call meets on disk and gives back as they are: that is said, never done in silence."""

from __future__ import annotations

import warnings
from dataclasses import dataclass, field
from pathlib import Path

from evalfm.progress import SILENT, Progress


@dataclass
class Known:
    """What one call has met of its results.

    Attributes:
        force: whether what is on disk is made again, once in this call.
        own: ``ProbeConfig.result_address`` of what cells of the same study measure in their own right: none of it is
            made, and recorded, as a baseline of another cell, whichever comes first.
    """

    force: bool = False
    own: frozenset[str] = frozenset()
    _met: set[Path] = field(default_factory=set)
    _returned: list[Path] = field(default_factory=list)

    def is_there(self, folder: Path, record: str) -> bool:
        """Whether the result in ``folder``, whole where it holds ``record``, is given back and not made."""
        if folder in self._met:
            # Made or met by this call already, as a baseline that several encoders share.
            return (folder / record).is_file()
        self._met.add(folder)
        is_there = not self.force and (folder / record).is_file()
        if is_there:
            self._returned.append(folder)
        return is_there

    def say(self, progress: Progress) -> None:
        """Say what is given back: through ``progress``, or as a warning where that is silent."""
        if not self._returned:
            return
        names = [str(folder) for folder in self._returned]
        if len(names) == 1:
            said = f"Run {names[0]} is there already, returned as it is; --force runs it again."
        else:
            listed = "".join(f"\n  {name}" for name in names)
            said = f"{len(names)} runs are there already, returned as they are; --force runs them again:{listed}"
        self._returned.clear()
        if progress is SILENT:
            warnings.warn(said.replace("--force", "force=True"), stacklevel=3)
        else:
            progress.say(said)
