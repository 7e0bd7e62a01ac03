"""
Build the site into a folder, which is made anew, and check it: `python -m website FOLDER`.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from website.check import problems_of
from website.pages import ROOT, stage

_WARNING = re.compile(r"^(?:griffe|mkdocstrings)\b.*", re.MULTILINE)
"""What the readers of docstrings complain of, which the builder prints and does not count."""


def main(folder: str) -> int:
    """Build, check, say what is wrong; return the exit code."""
    site = Path(folder).absolute()
    with tempfile.TemporaryDirectory() as scratch:
        configuration = stage(Path(scratch).resolve())
        said = built(configuration)
        if said is None:
            return 1
        shutil.rmtree(site, ignore_errors=True)
        shutil.copytree(configuration.parent / "site", site)
    problems = [*_WARNING.findall(said), *problems_of(site)]
    for problem in problems:
        print(problem, file=sys.stderr)
    print(f"{len([*site.rglob('*.html')])} pages in {folder}, {len(problems)} problems")
    return 1 if problems else 0


def built(configuration: Path) -> str | None:
    """Build the site; return what the builder said, or `None`: it gave up, and why is on standard output."""
    command = [sys.executable, "-m", "zensical", "build", "--strict", "--clean", "-f", str(configuration)]
    ran = subprocess.run(
        command, check=False, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    if ran.returncode:
        print(ran.stdout)
        return None
    return ran.stdout


if __name__ == "__main__":
    raise SystemExit(main(*sys.argv[1:]))
