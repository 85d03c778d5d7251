"""Do training, sampling and evaluation give the numbers that are stored in numbers.json?

    python tests/regression/numbers.py --check              compare; exits with 1 when a number differs
    python tests/regression/numbers.py --check train/       the same for the cases whose names start so
    python tests/regression/numbers.py --store              write numbers.json anew

On the machine and with the torch of numbers.json every bit must be the same; elsewhere there are tolerances, see
compare.py. Numbers that change on purpose are stored anew in the commit that changes them.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
import tempfile
import time
from pathlib import Path

if __name__ == "__main__":
    # Python puts the folder of a script first, where this file would hide the module `numbers` of Python's library.
    sys.path[0] = str(Path(__file__).resolve().parents[2])

from tests.regression.cases import CASES, Values
from tests.regression.compare import compare, machine

STORED = Path(__file__).with_suffix(".json")


def write(cases: dict[str, Values]) -> None:
    """Floats are written so that reading gives every bit back. A list takes one line."""
    text = json.dumps({"machine": machine(), "cases": cases}, indent=1, ensure_ascii=False)
    STORED.write_text(re.sub(r"\[[^\[\]{}]*\]", lambda found: " ".join(found[0].split()), text) + "\n")


def store(folder: Path) -> int:
    collected = {}
    for name, collect in CASES.items():
        start = time.monotonic()
        collected[name] = collect(folder)
        print(f"{name}: collected in {time.monotonic() - start:.0f} s", flush=True)
    write(collected)
    print(f"stored: {STORED}")
    return 0


def check(folder: Path, start: str = "") -> int:
    content = json.loads(STORED.read_text())
    same_machine = content["machine"] == machine()
    if not same_machine:
        print(f"Not the machine of the stored numbers, so they are compared with tolerances: {machine()}")
    bad = 0
    for name, collect in CASES.items():
        if not name.startswith(start):
            continue
        try:
            comparison = compare(content["cases"][name], collect(folder), same_machine=same_machine)
        except Exception as error:  # whatever it is, the other cases are still compared
            bad += 1
            print(f"{name}: not collected: {type(error).__name__}: {error}", flush=True)
            continue
        bad += bool(comparison.differences)
        print(f"{name}: {comparison}", flush=True)
    return 1 if bad else 0


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    action = parser.add_mutually_exclusive_group()
    action.add_argument("--check", metavar="START", nargs="?", const="", default="", help="compare (the default)")
    action.add_argument("--store", action="store_true", help="write the stored numbers anew")
    arguments = parser.parse_args()
    if not any(name.startswith(arguments.check) for name in CASES):
        parser.error(f"no case starts with {arguments.check}; there are {', '.join(CASES)}")
    with tempfile.TemporaryDirectory() as folder:
        return store(Path(folder)) if arguments.store else check(Path(folder), arguments.check)


if __name__ == "__main__":
    sys.exit(main())
