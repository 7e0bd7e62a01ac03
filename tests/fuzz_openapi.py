"""
Schemathesis against the emulator on a socket: good and bad requests made from the document, replies judged by it.

`python tests/fuzz_openapi.py` takes half a minute, and the same seed always; arguments go to `schemathesis run`,
such as `--max-examples 2000` for a long run.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import schemathesis
from schemathesis.specs.openapi.checks import negative_data_rejection

TESTS = Path(__file__).parent
LENIENT = {
    "page": {str(number) for number in range(-10, 1000)},
    "page_size": {str(number) for number in range(1, 11)},
    "include_soldout": {"true", "false"},
}
"""
Parameters of which no value is refused, with values that are surely as the document wants them: by the reference
an invalid page is page 1, and it names no error for the other two.
"""


@schemathesis.check
def refuses_bad_data(context: Any, response: Any, case: Any) -> bool | None:
    """Want a refusal of what the document does not allow, except in the lenient parameters."""
    sent = case.query or {}
    if any(name in sent and str(sent[name]) not in good for name, good in LENIENT.items()):
        return None
    refused: bool | None = negative_data_rejection(context, response, case)
    return refused


def main(arguments: list[str]) -> int:
    """Run it, and return its exit code."""
    from crowdtwist_async.emulator import Emulator
    from crowdtwist_async.emulator.server import EmulatorServer

    options = ["--seed", "1", "--max-examples", "100", *arguments]
    environment = {**os.environ, "PYTHONPATH": f"{TESTS}:{TESTS.parent}", "NO_PROXY": "*"}
    with EmulatorServer(Emulator()) as server, tempfile.TemporaryDirectory() as folder:
        program = "import sys; from schemathesis.cli import schemathesis; sys.exit(schemathesis())"
        command = [sys.executable, "-c", program, "--config-file", str(TESTS / "schemathesis.toml"), "run"]
        return subprocess.call(
            [*command, f"{server.url}/openapi.json", *options], env=environment, cwd=folder
        )


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
