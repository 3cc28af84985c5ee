"""A report on paper: printed by the Chromium that is installed, with nothing of the user's browser in reach."""

import os
import shutil
import subprocess
import tempfile
from pathlib import Path

from mura_fastai.errors import InputError
from mura_fastai.files import replacing

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome", "microsoft-edge")
# No account, no update, no extension, no request: only the page that is named.
FLAGS = (
    "--headless", "--disable-gpu", "--no-first-run", "--no-default-browser-check", "--disable-background-networking",
    "--disable-component-update", "--disable-default-apps", "--disable-extensions", "--disable-sync",
    "--disable-dev-shm-usage", "--no-pdf-header-footer", "--export-tagged-pdf", "--generate-pdf-document-outline",
)  # fmt: skip


def find_chromium() -> str:  # its path
    "Chromium, Chrome or Edge: what MURA_CHROMIUM names, or what is on the PATH. InputError where there is none."
    named = os.environ.get("MURA_CHROMIUM")
    found = shutil.which(named) if named else next(filter(None, map(shutil.which, NAMES)), None)
    if found is None and named:
        raise InputError(f"{named}: no program, as MURA_CHROMIUM names it; give the path of a Chromium or Chrome")
    if found is None:
        raise InputError(
            "a PDF is printed by Chromium or Chrome, and none is installed: install one, name it in MURA_CHROMIUM, "
            "or leave --pdf away and print the HTML file from any browser"
        )
    return found


def print_pdf(
    html: str | Path,  # a report
    pdf: str | Path,  # the file to write or to replace
    timeout: float = 180,  # seconds
) -> Path:  # the PDF
    """Print a HTML file to A4 pages by headless Chromium, in a browser profile that is made for it and thrown away.

    InputError: no Chromium, no such file. OSError: it did not print, and what it said."""
    program, html, pdf = find_chromium(), Path(html).resolve(), Path(pdf)
    if not html.is_file():
        raise InputError(f"{html}: no such file; mura report writes one")
    # Its sandbox cannot be had as root; the page holds no script and may load nothing.
    flags = [*FLAGS, *(["--no-sandbox"] if hasattr(os, "geteuid") and os.geteuid() == 0 else [])]
    # Chromium's helpers may still write into the profile while it is taken away: that is no fault of the PDF.
    folder = tempfile.TemporaryDirectory(prefix="mura-print-", ignore_cleanup_errors=True)
    with folder as profile, replacing(pdf) as aside:
        command = [program, *flags, f"--user-data-dir={profile}", f"--print-to-pdf={aside.resolve()}", html.as_uri()]
        try:
            done = subprocess.run(
                command, capture_output=True, text=True, errors="replace", timeout=timeout, check=False
            )  # fmt: skip
        except subprocess.TimeoutExpired:
            raise OSError(f"{program} did not print {html} in {timeout:.0f} seconds") from None
        printed = aside.read_bytes()[:4] if aside.exists() else b""
        if printed != b"%PDF":
            said = " ".join(done.stderr.split())[-300:] or f"exit code {done.returncode}"
            raise OSError(f"{program} did not print {html}: {said}")
    return pdf
