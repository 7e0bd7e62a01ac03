"""
`python -m benchmarks [--quick] [--only NAME ...] [--out FOLDER]`: this client against what people would use.

The contenders take turns in every round of the same run; the figures are medians over the rounds, and
ratios of medians with their bootstrap intervals. Nothing fails. Writes `performance.json`, and
`performance.svg` when there is something to draw. A full run takes about 20 minutes.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from pathlib import Path

from benchmarks.chart import chart
from benchmarks.contenders import (
    NAIVE,
    NAIVE_UNLIMITED,
    OPENAI,
    found,
    import_everything,
    left_out,
)
from benchmarks.cpu import measure_cpu
from benchmarks.decode import measure_decode
from benchmarks.enforced import measure_enforced
from benchmarks.export import measure_export
from benchmarks.fan_out import measure_fan_out
from benchmarks.figures import Figures
from benchmarks.imports import measure_imports
from benchmarks.memory import measure_memory
from benchmarks.ours import OURS, OURS_AIOHTTP
from benchmarks.report import as_json, circumstances, headline, table, verdicts
from benchmarks.targets import judged
from benchmarks.walks import DLT, measure_walks

_OUT = Path("benchmarks", "results")
_LEVELS = (1, 16, 64, 200)
_FAN_OUT = (OURS, OURS_AIOHTTP, NAIVE, NAIVE_UNLIMITED, OPENAI)
_DRAWN = ("CPU a page, 64 in flight", "14-page walk, 100 ms a page")
Measure = Callable[[], list[Figures]]


def _full() -> dict[str, Measure]:
    return {
        "decode": lambda: [measure_decode(rounds=15, pages=500)],
        "cpu": lambda: measure_cpu(_LEVELS, rounds=7, pages=256),
        "tls": lambda: measure_cpu(_LEVELS, rounds=5, pages=256, tls=True) if found("trustme") else [],
        "walk": lambda: measure_walks((0.0, 0.02, 0.1), rounds=5),
        "fan-out": lambda: [measure_fan_out(2_000, rounds=3, latency=0.3, names=_FAN_OUT)],
        "import": lambda: [measure_imports(rounds=7)],
        "memory": lambda: [measure_memory(100_000)],
        "export": lambda: measure_export(20_000, rounds=3),
        "ceiling": lambda: [measure_enforced(75.0, rounds=1)],
    }


def _quick() -> dict[str, Measure]:
    """Every measure once or twice, to see that it works."""
    return {
        "decode": lambda: [measure_decode(rounds=3, pages=50)],
        "cpu": lambda: measure_cpu((1, 16), rounds=2, pages=48),
        "tls": lambda: measure_cpu((16,), rounds=1, pages=32, tls=True) if found("trustme") else [],
        "walk": lambda: measure_walks((0.002,), rounds=1),
        "fan-out": lambda: [measure_fan_out(100, rounds=1, latency=0.02, names=_FAN_OUT[:4])],
        "import": lambda: [measure_imports(rounds=1)],
        "memory": lambda: [measure_memory(500)],
        "export": lambda: measure_export(200, rounds=1),
        "ceiling": lambda: [measure_enforced(0.5, rounds=1)],
    }


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="a smoke run of less than 30 seconds")
    parser.add_argument("--only", nargs="+", choices=list(_full()), help="the measures to take")
    parser.add_argument("--out", type=Path, default=_OUT, help="the folder for the two files")
    return parser.parse_args()


def _write(out: Path, measured: list[Figures], results: dict[str, object]) -> None:
    out.mkdir(parents=True, exist_ok=True)
    (out / "performance.json").write_text(json.dumps(results, indent=1) + "\n")
    drawn = [figures for figures in measured if figures.name in _DRAWN]
    if drawn:
        (out / "performance.svg").write_text(chart(drawn))
    print(f"\nWritten to {out}: performance.json{', performance.svg' if drawn else ''}")


def main() -> None:
    """Measure, print and write."""
    arguments = _arguments()
    out_of_it = left_out() + [name for name in (DLT,) if not found(name)]
    out_of_it += [] if found("trustme") else ["TLS (trustme)"]
    about = circumstances(quick=arguments.quick, left_out=out_of_it)
    print(headline(about), flush=True)
    import_everything()
    measured: list[Figures] = []
    for name, measure in (_quick() if arguments.quick else _full()).items():
        if arguments.only is None or name in arguments.only:
            for figures in measure():
                measured.append(figures)
                print(table(figures), flush=True)
    targets = judged(measured)
    print(verdicts(targets))
    _write(arguments.out, measured, as_json(about, measured, targets))


if __name__ == "__main__":
    main()
