"""One query for Marabou, in a process of its own: python peer_marabou.py MODEL QUERY SECONDS, by the interpreter that has it.

QUERY is a JSON file that `peers.py` writes: a list of {lower, upper, rows, offsets}; the property can be met where, for one of
them, an input of the box gives an output y with rows y + offsets <= 0. Prints sat, unsat or timed-out.
"""

import json
import sys
import time

from maraboupy import Marabou


def main() -> None:
    model, query, seconds = sys.argv[1], sys.argv[2], float(sys.argv[3])
    until = time.monotonic() + seconds
    with open(query, encoding="utf-8") as file:
        parts = json.load(file)
    for part in parts:
        network = Marabou.read_onnx(model)
        x = [v for variables in network.inputVars for v in variables.flatten()]
        y = [v for variables in network.outputVars for v in variables.flatten()]
        for variable, low, high in zip(x, part["lower"], part["upper"], strict=True):
            network.setLowerBound(variable, low)
            network.setUpperBound(variable, high)
        for row, offset in zip(part["rows"], part["offsets"], strict=True):
            used = [(variable, coefficient) for variable, coefficient in zip(y, row, strict=True) if coefficient]
            network.addInequality([v for v, _ in used], [c for _, c in used], -offset)
        left = max(1, int(until - time.monotonic()))
        options = Marabou.createOptions(verbosity=0, timeoutInSeconds=left)
        answer = network.solve(verbose=False, options=options)[0]
        if answer != "unsat":
            print(answer if answer == "sat" else "timed-out")
            return
    print("unsat")


if __name__ == "__main__":
    main()
