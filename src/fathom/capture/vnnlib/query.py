"""VNN-LIB 2: declared networks, indexed variables and polynomial constraints, on top of the parser of VNN-LIB 1.

The grammar and its typing are those of the VNN-LIB 2.0 standard (https://www.vnnlib.org); formulas are read as generously as
those of VNN-LIB 1. Products become variables of their own, so that every row stays linear. Their factors are kept as they are
written where they can be: a square is bounded well as one, and badly once it is multiplied out.
"""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Mapping
from fractions import Fraction

from fathom.capture.vnnlib.declarations import MOST_MONOMIALS, REAL, Declaration, Equivalence, Query, Sum, Tensor
from fathom.capture.vnnlib.formula import And, Coefficient, Linear, Or, Variable
from fathom.capture.vnnlib.parser import TERM, Item, Parser, opened
from fathom.capture.vnnlib.rational import fits, odd_part
from fathom.capture.vnnlib.tokens import INDEXED, Tokens

VERSION = "<2.0>"
TYPES = (REAL, "float32", "float64")
KINDS = ("input", "hidden", "output")
MOST_ELEMENTS = 1 << 24
"""Of all tensors together: no network that fits into memory has more."""

MOST_DEGREE = 16
MOST_STEPS = 5_000_000
"""Pairs of summands multiplied while a file is read: seconds."""

Summand = tuple[tuple[Variable, ...], Coefficient]
"""Factors and what they are multiplied by."""

_WORD = re.compile(r"([A-Za-z][A-Za-z0-9_]*)\s*(?:\[([^\]]*)\])?")
_NETWORK = re.compile(r"[A-Za-z][A-Za-z0-9_-]*")
_STRING = re.compile(r'"((?:[^"\\]|\\["\\nt])+)"')
_ESCAPES = {r"\"": '"', r"\\": "\\", r"\n": "\n", r"\t": "\t"}


def parse_query(name: str, source: str, same: Mapping[Variable, Variable] | None = None) -> tuple[Query, And]:
    """The declarations of a file, and what all its assertions say together.

    Args:
        same: what variables are called instead, where equalities are known.

    Raises:
        NotUnderstood: with line and column, what was expected, and what came.
    """
    parser = QueryParser(Tokens.of(name, source, INDEXED), same or {})
    parser.read()
    parser.require_network(len(parser.texts))
    return parser.query, And(parser.assertions)


class QueryParser(Parser):
    """State of one run over a VNN-LIB 2 file."""

    start = "a command such as (declare-network ...) or (assert ...)"

    def __init__(self, tokens: Tokens, same: Mapping[Variable, Variable]) -> None:
        super().__init__(tokens)
        self.same = same
        self.versioned = False
        self.networks: list[Declaration] = []
        self.tensors: dict[str, Tensor] = {}
        self.sizes = {"input": 0, "output": 0}  # flat places taken so far, hidden ones among the outputs
        self.elements = 0
        self.products: list[tuple[Variable, ...]] = []  # the monomials, in the order in which they are met
        self.numbered: dict[tuple[Variable, ...], int] = {}  # and the place of each
        self.sums: dict[Sum, int] = {}
        self.steps = 0

    @property
    def query(self) -> Query:
        return Query(tuple(self.networks), tuple(range(self.sizes["input"])), tuple(self.products), tuple(self.sums))

    def called(self, variable: Variable) -> str:
        return self.query.called(variable)

    # Commands, at the top level.

    def command(self, items: list[Item]) -> None:
        name = self.head(items)
        if not self.versioned and name != "vnnlib-version":
            raise self.tokens.error(opened(items), f"(vnnlib-version {VERSION}) before all else", repr(name))
        if name == "vnnlib-version":
            self.arity(items, 1, 1)
            if self.versioned:
                raise self.tokens.error(opened(items), "one vnnlib-version", "another")
            if self.word(items, 2) != VERSION:
                raise self.wrong(items, 2, f"the version {VERSION}")
            self.versioned = True
        elif name == "declare-network":
            self.network(items)
        elif name == "assert":
            self.require_network(opened(items))
            self.arity(items, 1, 1)
            self.assertions.append(self.formula(items, 2))
        else:
            raise self.unknown(items, name, "vnnlib-version, declare-network or assert at the top level")

    def require_network(self, index: int) -> None:
        if not self.networks:
            got = repr(self.texts[index]) if index < len(self.texts) else "the end of the file"
            raise self.tokens.error(index, f"(vnnlib-version {VERSION}) and then a (declare-network ...)", got)

    def network(self, items: list[Item]) -> None:
        if self.assertions:
            raise self.tokens.error(opened(items), "all networks before the first assertion", "'declare-network'")
        self.arity(items, 1, None)
        name = self.word(items, 2)
        if not _NETWORK.fullmatch(name) or any(network.name == name for network in self.networks):
            raise self.wrong(items, 2, "a network's name, of letters, digits and _, that is not declared yet")
        parts = list(items[3:])
        first = parts[0] if parts else None
        equivalence = first if isinstance(first, Equivalence) else None
        if equivalence:
            del parts[0]
        kinds: list[str] = []
        for n, part in enumerate(parts, len(items) - len(parts)):
            if not isinstance(part, Tensor) or (kinds and KINDS.index(part.kind) < KINDS.index(kinds[-1])):
                raise self.wrong(items, n, "(declare-input ...), then (declare-hidden ...), then (declare-output ...)")
            kinds.append(part.kind)
        for kind in ("input", "output"):
            if kind not in kinds:
                raise self.tokens.error(opened(items), f"a network with a (declare-{kind} ...)", repr(name))
        by_kind = {kind: [t for t in parts if isinstance(t, Tensor) and t.kind == kind] for kind in KINDS}
        placed = {kind: tuple(map(self.place, by_kind[kind])) for kind in ("input", "output", "hidden")}
        declared = Declaration(name, equivalence, placed["input"], placed["hidden"], placed["output"])
        self.check_equivalence(items, declared)
        self.check_hidden(items, declared)
        self.networks.append(declared)

    def place(self, tensor: Tensor) -> Tensor:
        """The tensor at its place in the flat vectors."""
        side = "input" if tensor.kind == "input" else "output"
        placed = tensor._replace(start=self.sizes[side])
        self.sizes[side] += tensor.size
        self.tensors[tensor.name] = placed
        return placed

    def check_equivalence(self, items: list[Item], declared: Declaration) -> None:
        if declared.equivalence is None:
            return
        kind, name = declared.equivalence
        other = next((network for network in self.networks if network.name == name), None)
        if other is None or other.equivalence is not None:
            known = ", ".join(network.name for network in self.networks if network.equivalence is None) or "none"
            raise self.wrong(items, 3, f"({kind} ...) a network declared before, itself without equal-to ({known})")
        pairs: list[tuple[Tensor, Tensor]] = []
        for mine, theirs in ((declared.inputs, other.inputs), (declared.outputs, other.outputs)):
            if len(mine) != len(theirs):
                raise self.wrong(items, 3, f"as many inputs and outputs as {name} has for ({kind} {name})")
            pairs += zip(mine, theirs, strict=True)
        pairs += [(a, b) for a in declared.hidden for b in other.hidden if a.onnx == b.onnx]
        for a, b in pairs:
            if a.shape != b.shape or (kind == "equal-to" and a.dtype != b.dtype):
                got, wanted = (f"{t.name} {t.dtype} {list(t.shape)}" for t in (a, b))
                expected = f"declarations like those of {name}, as ({kind} {name}) says: {wanted}, where there is {got}"
                raise self.wrong(items, 3, expected)

    def check_hidden(self, items: list[Item], declared: Declaration) -> None:
        for n, tensor in enumerate(declared.hidden):
            if any(tensor.onnx == before.onnx for before in declared.hidden[:n]):
                raise self.tokens.error(opened(items), "every hidden value declared once", f"{tensor.onnx!r} twice")

    # Parts of declarations.

    def special(self, items: list[Item], name: str) -> Item:
        if name in ("equal-to", "isomorphic-to"):
            self.arity(items, 1, 1)
            return Equivalence(name, self.word(items, 2))
        kind = name.removeprefix("declare-")
        if name != kind and kind in KINDS:
            return self.tensor(items, kind)
        raise self.unknown(items, name, "and, or, <=, >=, <, >, ==, !=, +, -, * or a part of a declaration")

    def tensor(self, items: list[Item], kind: str) -> Tensor:
        """(declare-input X real [1,2]); the type and the shape behind it are one word."""
        count = 3 if kind == "hidden" else 2
        if len(items) - 2 != count:
            more = ' "name in the model"' if kind == "hidden" else ""
            expected = f"(declare-{kind} NAME TYPE [SIZES]{more}) and no more"
            raise self.tokens.error(opened(items), expected, f"{len(items) - 2} words behind declare-{kind}")
        name = self.word(items, 2)
        match = _WORD.fullmatch(name)
        if not match or match[2] is not None or name in self.tensors:
            raise self.wrong(items, 2, "a variable's name, of letters, digits and _, that is not declared yet")
        match = _WORD.fullmatch(self.word(items, 3))
        dtype = (REAL if match[1] == "Real" else match[1]) if match else ""
        if not match or dtype not in TYPES:
            raise self.wrong(items, 3, f"one of the element types {', '.join(TYPES)} and a shape such as [1,2]")
        sizes = self.numbers(match[2])
        if sizes is None or 0 in sizes:
            raise self.wrong(items, 3, "a shape of positive sizes, such as [1,2] or []")
        self.elements += math.prod(sizes)
        if self.elements > MOST_ELEMENTS:
            raise self.wrong(items, 3, f"tensors of at most {MOST_ELEMENTS} elements in all")
        onnx = self.string(items, 4) if kind == "hidden" else ""
        tensor = Tensor(kind, name, dtype, sizes, onnx, 0)
        self.tensors[name] = tensor
        return tensor

    def string(self, items: list[Item], n: int) -> str:
        match = _STRING.fullmatch(self.word(items, n))
        if not match:
            raise self.wrong(items, n, 'the name that the model has for this value, in quotes: "name"')
        return re.sub(r"\\.", lambda escape: _ESCAPES[escape[0]], match[1])

    @staticmethod
    def numbers(text: str | None) -> tuple[int, ...] | None:
        """The whole numbers in brackets; None where they are something else."""
        if text is None:
            return None
        parts = [part.strip() for part in text.split(",")] if text.strip() else []
        if any(not re.fullmatch("[0-9]{1,9}", part) for part in parts):
            return None
        return tuple(map(int, parts))

    # Formulas and terms.

    def reduce(self, items: list[Item]) -> Item:
        if len(items) > 1 and isinstance(items[1], int):
            word = self.texts[items[1]]
            if word == "==":
                return self.comparison(items, "=")
            if word == "!=":
                self.arity(items, 2, 2)
                return Or([self.comparison(items, "<"), self.comparison(items, ">")])
        return super().reduce(items)

    def meaning(self, items: list[Item], n: int, text: str) -> Linear:
        match = _WORD.fullmatch(text)
        if not match:
            return Linear({}, self.number(items, n, text))
        tensor = self.tensors.get(match[1])
        if tensor is None:
            raise self.wrong(items, n, TERM)
        indices = () if match[2] is None else self.numbers(match[2])
        if (match[2] is None and tensor.shape) or indices is None or len(indices) != len(tensor.shape):
            raise self.wrong(items, n, f"{tensor.name} with an index for each of its dimensions {list(tensor.shape)}")
        place = 0
        for index, size in zip(indices, tensor.shape, strict=True):
            if index >= size:
                raise self.wrong(items, n, f"indices from 0, each less than its dimension in {list(tensor.shape)}")
            place = place * size + index
        variable = tensor.start + place if tensor.kind == "input" else ~(tensor.start + place)
        return Linear({self.same.get(variable, variable): 1}, Fraction(0))

    def times(self, items: list[Item], n: int, left: Linear, right: Linear) -> Linear:
        """Sums of products are multiplied out; every product of variables and of sums of variables is a variable of its own."""
        coefficients: dict[Variable, Coefficient] = {}
        sides = [self.kept(left) or self.summands(left), self.kept(right) or self.summands(right)]
        if not all(factors for side in sides for factors, _ in side):
            sides = [self.summands(left), self.summands(right)]  # a sum times a constant is no product
        self.steps += len(sides[0]) * len(sides[1])
        if self.steps > MOST_STEPS:
            raise self.wrong(items, n, f"products of sums that are multiplied out in at most {MOST_STEPS} steps")
        constant = Fraction(0)
        for (first, a), (second, b) in itertools.product(*sides):
            factors = tuple(sorted(first + second))
            if len(factors) > MOST_DEGREE:
                raise self.wrong(items, n, f"a product of at most {MOST_DEGREE} factors")
            if factors:
                variable = factors[0] if len(factors) == 1 else self.monomial(items, n, factors)
                coefficients[variable] = coefficients.get(variable, 0) + a * b
            else:
                constant += a * b
        return Linear(coefficients, constant)

    def kept(self, term: Linear) -> list[Summand]:
        """A sum of variables as one factor, where float64 holds its numbers; else nothing."""
        own = ~self.sizes["output"]  # the first variable that is a product; those after it are less
        live = sorted((v, c) for v, c in term.coefficients.items() if c)
        if live[0][0] <= own or (len(live) == 1 and not term.constant):
            return []
        numbers = [*(c for _, c in live), term.constant]
        scale = math.lcm(*(odd_part(number.denominator) for number in numbers)) * (1 if live[0][1] > 0 else -1)
        if not all(fits(scale * number) for number in numbers):
            return []
        kept = Sum(tuple((v, scale * c) for v, c in live), scale * term.constant)
        place = self.sums.setdefault(kept, len(self.sums))
        return [((own - MOST_MONOMIALS - place,), Fraction(1, scale))]

    def summands(self, term: Linear) -> list[Summand]:
        """Variables and products, and the constant last if there is one."""
        own = ~self.sizes["output"]
        parts: list[Summand] = [(self.products[own - v] if v <= own else (v,), c) for v, c in term.coefficients.items() if c]
        return [*parts, ((), term.constant)] if term.constant else parts

    def monomial(self, items: list[Item], n: int, factors: tuple[Variable, ...]) -> Variable:
        """The variable that stands for a product."""
        place = self.numbered.setdefault(factors, len(self.products))
        if place == len(self.products):
            if place >= MOST_MONOMIALS:
                raise self.wrong(items, n, f"at most {MOST_MONOMIALS} different products of variables")
            self.products.append(factors)
        return ~(self.sizes["output"] + place)
