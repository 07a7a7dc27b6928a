"""`make bench`: all measurements with their defaults, one after the other."""

import argparse
import sys
from pathlib import Path

from bench import cost, latency, streams


def main() -> int:
    """Measure what ZueBee costs and what its callers feel; return 1 if one could not be measured well."""
    parser = argparse.ArgumentParser(prog="bench", description="CPU cost beside the peers, then what callers feel")
    parser.add_argument("--results", type=Path, help="also write a JSON file for each into this folder")
    results: Path | None = parser.parse_args().results
    if results:
        results.mkdir(parents=True, exist_ok=True)
    codes = []
    for name, measure in (("cost", cost.main), ("latency", latency.main), ("streams", streams.main)):
        print(f"== {name}\n")
        codes.append(measure(["--json", str(results / f"{name}.json")] if results else []))
        print()
    return max(codes)


if __name__ == "__main__":
    sys.exit(main())
