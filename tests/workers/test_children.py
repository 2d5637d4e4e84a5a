import os
import subprocess
import sys
import tempfile

import pytest

from evalfm.workers.children import how_it_ended, search_path


def ended(code: str) -> str:
    with tempfile.TemporaryFile() as errors:
        return how_it_ended(subprocess.Popen([sys.executable, "-c", code], stderr=errors), errors)


def test_the_last_line_that_it_said_is_the_reason() -> None:
    assert ended("import sys; print('first', file=sys.stderr); sys.exit('no disk')") == "ended with status 1 (no disk)"
    assert ended("raise SystemExit(7)") == "ended with status 7"


@pytest.mark.skipif(os.name != "posix", reason="signals as POSIX has them")
def test_a_signal_has_its_name() -> None:
    assert ended("import os; os.kill(os.getpid(), 9)") == "was killed (SIGKILL)"


def test_the_working_folder_is_named_and_what_is_no_text_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", ["", "/elsewhere", 3])
    assert search_path() == [os.getcwd(), "/elsewhere"]
