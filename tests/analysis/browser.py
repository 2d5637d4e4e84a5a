"""A page as a browser without a network shows it."""

from __future__ import annotations

import base64
import hashlib
import re
import shutil
import subprocess
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
needs_browser = pytest.mark.skipif(CHROMIUM is None, reason="Chromium is not installed (apt-get install chromium)")


def shown(page: Path, script: str = "") -> tuple[str, list[str]]:
    """The page's elements after its scripts and ``script`` ran, and what was printed on the console."""
    copy = page.with_name(f"shown-{page.name}")
    # The page's own policy holds; this one script is let in by its hash.
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    text = page.read_text().replace("script-src ", f"script-src 'sha256-{digest}' ", 1)
    copy.write_text(text.replace("</body>", f"<script>{script}</script></body>"))
    told = _opened(copy, "--host-resolver-rules=MAP * ~NOTFOUND", "--proxy-server=127.0.0.1:9")
    return told.stdout, re.findall(r"CONSOLE.*", told.stderr)


def asked_for(page: Path, elements: Callable[[str], str]) -> list[str]:
    """What the page asks a server of this machine for, with ``elements`` of the server's address at its end."""
    asked: list[str] = []

    class Server(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)
            self.send_error(404)

        do_POST = do_GET

        def log_message(self, *_: object) -> None:
            pass

    # A browser holds connections open on which it asks nothing yet.
    with ThreadingHTTPServer(("127.0.0.1", 0), Server) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        copy = page.with_name(f"asking-{page.name}")
        address = f"http://127.0.0.1:{server.server_address[1]}"
        copy.write_text(page.read_text().replace("</body>", f"{elements(address)}</body>"))
        _opened(copy)
        server.shutdown()
    return asked


def _opened(page: Path, *options: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [
            str(CHROMIUM),
            "--headless",
            "--no-sandbox",
            "--disable-gpu",
            "--enable-logging=stderr",
            f"--user-data-dir={page.parent / 'profile'}",
            "--virtual-time-budget=5000",
            *options,
            "--dump-dom",
            page.as_uri(),
        ],
        capture_output=True,
        text=True,
        timeout=180,
        check=True,
    )
