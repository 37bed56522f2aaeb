"""Measure: `python -m tests.bench engine`, `python -m tests.bench search --chunks 20000`, or all with their defaults without a name.

Each file of this folder with a `main()` is one measurement. Quote ratios measured in one run on one machine, not bare seconds.
"""

from __future__ import annotations

import importlib
import sys
from pathlib import Path

NAMES = sorted(path.stem for path in Path(__file__).parent.glob("[a-z]*.py"))


def main() -> None:
    """Run the measurement that is named, with the arguments that follow, or all."""
    chosen = sys.argv[1:2] or NAMES
    if unknown := set(chosen) - set(NAMES):
        sys.exit(f"no measurement {unknown.pop()!r}; there are {', '.join(NAMES)}")
    rest = sys.argv[2:]
    for name in chosen:
        sys.argv = [f"python -m tests.bench {name}", *rest]
        print(f"== {name}", flush=True)
        importlib.import_module(f"tests.bench.{name}").main()


if __name__ == "__main__":
    main()
