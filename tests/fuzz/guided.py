"""
Bodies that atheris finds: it changes bytes, and keeps what reaches a branch that nothing reached before.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import atheris

sys.path[:0] = [str(Path(__file__).parents[1])]

with atheris.instrument_imports(include=["crowdtwist_async"], exclude=["crowdtwist_async.emulator"]):
    from bodies import RECORDED
    from cases import keep, kept
    from checks import CALLS, check_reply

    from crowdtwist_async import Reply

_STATUSES = (200, 200, 200, 301, 400, 401, 404, 429, 500, 503)
_HEADERS = ("retry-after", "content-type", "location")
_LONGEST_BODY = 4_096


def _one(content: bytes) -> None:
    """Three bytes say which call, which status, which header; the rest is the body."""
    if len(content) < 3:
        return
    call = content[0] % len(CALLS)
    status = _STATUSES[content[1] % len(_STATUSES)]
    headers = {}
    body = content[3:]
    if (chosen := content[2] % (len(_HEADERS) + 1)) < len(_HEADERS):
        value, _, body = body.partition(b"\n")
        headers[_HEADERS[chosen]] = value.decode("latin-1")
    reply = Reply(status, headers, body)
    try:
        check_reply(call, reply)
    except BaseException as error:
        keep(call, reply, error)
        raise


def main() -> None:
    """Fuzz so many bodies from a seed: the arguments. Ends the process."""
    count, seed = sys.argv[1:]
    folder = tempfile.mkdtemp(prefix="crowdtwist-fuzz-")
    for number, body in enumerate([*RECORDED.values(), *(case.reply.body for case in kept())]):
        for call in range(len(CALLS)):
            Path(folder, f"{number}-{call}").write_bytes(bytes([call, 0, 3]) + body[:_LONGEST_BODY])
    options = [f"-runs={count}", f"-seed={int(seed) + 1}", f"-max_len={_LONGEST_BODY}", "-timeout=10"]
    options += ["-print_final_stats=1", "-verbosity=1", f"-artifact_prefix={folder}/"]
    atheris.Setup([sys.argv[0], *options, folder], _one)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
