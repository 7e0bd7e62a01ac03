"""
Every block of the page on object stores runs, from top to bottom, with an S3 on a socket.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest
from blocks import ROOT, blocks_of, emulated, python, run, shell
from conftest import leaks
from s3 import account, bucket, needs_s3, serving

from crowdtwist_async.export.remote.ledger import Manifest, Member

needs_s3()

PAGE = ROOT / "docs" / "object-stores.md"
RUNNERS = {"python": python, "sh": shell}


@pytest.fixture(name="environment")
def in_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, str]]:
    """What the blocks need: the emulator, a list of members, a bucket."""
    monkeypatch.chdir(tmp_path)
    with serving() as endpoint, emulated(tmp_path) as environment:
        for name, value in account(endpoint, tmp_path).items():
            monkeypatch.setenv(name, value)
        with bucket():
            yield {**environment, **account(endpoint, tmp_path)}


def test_all_blocks_run_from_top_to_bottom(environment: dict[str, str], tmp_path: Path) -> None:
    """Each works on what those before it left."""
    found = [block for block in blocks_of(PAGE) if block.language not in ("json", "text")]
    assert {block.language for block in found} == RUNNERS.keys()
    for block in found:
        ran = run(RUNNERS[block.language](block.text), environment, tmp_path)
        assert 0 == ran.returncode, ran.stderr
        assert not leaks(ran.stdout + ran.stderr)


def test_the_page_shows_a_manifest() -> None:
    """With all its fields, and those of its members."""
    [block] = [block.text for block in blocks_of(PAGE) if block.language == "json"]
    manifest = msgspec.json.decode(block, type=Manifest)

    assert [*Manifest.__struct_fields__] == [*msgspec.json.decode(block)]
    assert [*Member.__struct_fields__][:6] == [*msgspec.json.decode(block)["members"][0]]
    assert {"ok", "failed"} == {member.status for member in manifest.members}
    assert manifest.part is not None
    assert manifest.part.rows == sum(member.rows for member in manifest.members)
    assert re.search(rf"^  {manifest.part.name} ", PAGE.read_text(), re.MULTILINE)
