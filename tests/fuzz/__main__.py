"""`python -m fuzz`: a million changed inputs for everything that reads what a peer or a stream file says."""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

from fuzz.run import Finding, fuzz
from fuzz.targets import TARGETS


def main() -> int:
    """Exit code 1 where something was found; the inputs then lie in a folder."""
    parser = argparse.ArgumentParser(prog="python -m fuzz", description=__doc__)
    parser.add_argument("--inputs", type=int, default=1_000_000, help="of all targets together")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--target", help="one alone, by its name")
    parser.add_argument("--findings", type=Path, default=Path("fuzz-findings"), help="folder for what is found")
    chosen = parser.parse_args()
    targets = [target for target in (make() for make in TARGETS) if chosen.target in (None, target.name)]
    if not targets or chosen.inputs < 1:
        names = ", ".join(make().name for make in TARGETS)
        print(f"--target is {chosen.target}; allowed: {names}. --inputs is {chosen.inputs}; allowed: 1 or more")
        return 2
    began = told = time.monotonic()

    def progress(name: str, done: int, of: int) -> None:
        nonlocal told
        if done != of and time.monotonic() - told < 1:
            return
        told = time.monotonic()
        end = "\n" if done == of else "\r"
        print(f"{name:16} {done:>8} of {of:<8} {time.monotonic() - began:6.0f} s", end=end, flush=True)

    def found(finding: Finding) -> None:
        chosen.findings.mkdir(exist_ok=True)
        file = chosen.findings / finding.file_name
        file.write_bytes(finding.data)
        print(f"\n{finding.target}, input {finding.number} of seed {chosen.seed}: {file}")
        print(finding.what, flush=True)

    findings = fuzz(targets, chosen.inputs, chosen.seed, progress, found)
    print(f"{len(findings)} findings in {time.monotonic() - began:.0f} s")
    return 1 if findings else 0


if __name__ == "__main__":
    sys.exit(main())
