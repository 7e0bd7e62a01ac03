"""
The figures as tables to read and as JSON to keep.
"""

from __future__ import annotations

import platform
import sys
from collections.abc import Iterable
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from os import cpu_count
from pathlib import Path
from typing import Any

from benchmarks.figures import Figures, Target

_PACKAGES = (
    *("crowdtwist-async", "httpx", "httpcore", "anyio", "h11", "sniffio", "attrs", "cattrs", "msgspec"),
    *("aiohttp", "dlt", "httpx-aiohttp", "httpx2", "openai", "pydantic"),
)


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _processor() -> str:
    """The processor's name, where Linux tells it."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor()


def circumstances(*, quick: bool, left_out: list[str]) -> dict[str, Any]:
    """When, where and with which versions."""
    versions = {package: _version(package) for package in _PACKAGES}
    return {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "quick": quick,
        "python": sys.version.split()[0],
        "system": platform.platform(),
        "processor": _processor(),
        "cores": cpu_count(),
        "versions": {package: found for package, found in versions.items() if found},
        "left_out": left_out,
    }


def headline(about: dict[str, Any]) -> str:
    """The circumstances in two lines or three."""
    versions = ", ".join(f"{package} {found}" for package, found in about["versions"].items())
    lines = [
        f"{about['date']}, Python {about['python']}, {about['cores']} x {about['processor']}",
        versions,
    ]
    if about["left_out"]:
        lines.append(f"Not installed, left out: {'; '.join(about['left_out'])}")
    return "\n".join(lines)


def table(figures: Figures) -> str:
    """One measure: the medians, and the compared contender's share of each."""
    lines = [f"\n{figures.name} ({figures.unit})", f"{'':<42} {'median':>9}  {figures.compared} / this"]
    for name in figures.rounds:
        ratio = figures.ratio(name)
        said = "" if ratio is None or name == figures.compared else str(ratio)
        lines.append(f"{name:<42} {figures.median(name):>9,.{figures.digits}f}  {said}".rstrip())
    return "\n".join(lines)


def verdicts(targets: Iterable[Target]) -> str:
    """The targets, each with its ratio and whether it is met."""
    return "\n".join(["\nTargets (ratios of medians, with 95 % bootstrap intervals)", *map(str, targets)])


def as_json(about: dict[str, Any], measured: Iterable[Figures], targets: Iterable[Target]) -> dict[str, Any]:
    """Everything, the single rounds included."""
    return {
        **about,
        "measures": [_measure(figures) for figures in measured],
        "targets": [
            {
                "name": target.name,
                "ratio": target.ratio._asdict(),
                "bound": target.bound,
                "met": target.met,
            }
            for target in targets
        ],
    }


def _measure(figures: Figures) -> dict[str, Any]:
    contenders = {}
    for name, rounds in figures.rounds.items():
        ratio = figures.ratio(name)
        contenders[name] = {
            "median": round(figures.median(name), 3),
            "rounds": [round(figure, 3) for figure in rounds],
            "ratio": None if ratio is None else [round(part, 4) for part in ratio],
        }
    return {
        "name": figures.name,
        "unit": figures.unit,
        "compared": figures.compared,
        "contenders": contenders,
    }
