"""
Build the site into a folder, which is made anew, and check it: `python -m website FOLDER`.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from website.check import problems_of
from website.pages import ROOT, stage


def main(folder: str) -> int:
    """Build, check, say what is wrong; return the exit code."""
    with tempfile.TemporaryDirectory() as scratch:
        configuration = stage(Path(scratch).resolve())
        command = [sys.executable, "-m", "zensical", "build", "--strict", "--clean", "-f", str(configuration)]
        built = subprocess.run(command, check=False, cwd=ROOT).returncode
        if built:
            return built
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(configuration.parent / "site", folder)
    problems = problems_of(Path(folder).resolve())
    for problem in problems:
        print(problem, file=sys.stderr)
    print(f"{len([*Path(folder).rglob('*.html')])} pages in {folder}, {len(problems)} problems")
    return 1 if problems else 0


if __name__ == "__main__":
    raise SystemExit(main(*sys.argv[1:]))
