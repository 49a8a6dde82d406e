"""Looks for published weaknesses of the pinned packages; fails where there is one, and says so where nobody could tell.

.venv/bin/python .ci/audit.py
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

LOCK = Path(__file__).parents[1] / "requirements.lock"
AUDIT = (
    "--requirement", str(LOCK), "--require-hashes", "--disable-pip", "--format", "json", "--progress-spinner", "off",
)  # fmt: skip
SECONDS = 300


def main() -> int:
    """Exit code 1 for a weakness alone: a machine that reaches no source of them still has to be able to check."""
    command = [sys.executable, "-m", "pip_audit", *AUDIT]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=SECONDS, check=False)
        packages = json.loads(done.stdout)["dependencies"]
    except subprocess.TimeoutExpired:
        return _nobody_knows(f"it did not answer within {SECONDS} s")
    except ValueError:
        return _nobody_knows((done.stderr.strip().splitlines() or ["it said nothing"])[-1])
    known = [package for package in packages if "skip_reason" not in package]
    weak = [package for package in known if package["vulns"]]
    for package in weak:
        for weakness in package["vulns"]:
            fixed = ", ".join(weakness["fix_versions"]) or "no version yet"
            print(f"{package['name']} {package['version']} has {weakness['id']}; mended in {fixed}")
    if not known:
        return _nobody_knows("it knows none of the packages")
    print(f"{len(known)} of {len(packages)} packages were looked up; {len(weak)} have published weaknesses.")
    return 1 if weak else 0


def _nobody_knows(why: str) -> int:
    print(f"No package was audited: the source of published weaknesses cannot be reached from here ({why}).")
    return 0


if __name__ == "__main__":
    sys.exit(main())
