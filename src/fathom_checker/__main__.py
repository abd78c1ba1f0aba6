"""`python -m fathom_checker MODEL PROPERTY CERTIFICATE`: 0 accepted, 1 rejected, 2 malformed or not understood."""

import argparse
import sys

from fathom_checker import Malformed, Rejected, check


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser("fathom_checker", description=__doc__)
    for name, words in (("model", ".onnx"), ("property", ".vnnlib, or a problem.json"), ("certificate", "certificate")):
        parser.add_argument(name, help=f"{words} file; plain or gzipped")
    parser.add_argument("--exact", action="store_true", help="in rational numbers: for small proofs, slowly")
    try:
        words = check(**vars(parser.parse_args(arguments)))
    except Rejected as reason:
        print(f"rejected: {reason}")
        return 1
    except Malformed as reason:
        print(f"malformed: {reason}", file=sys.stderr)
        return 2
    print("accepted")
    print(words, file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(main())
