"""VNN-LIB 1, read by a shift-reduce parser: an explicit stack, so that no depth of nesting is too much.

The language is the part of SMT-LIB that VNN-LIB 1.0 uses (Demarchi, Guidotti, Pulina and Tacchella, Supporting
standardization of neural networks verification with VNN-LIB and CoCoNet, FoMLAS 2023), read generously: any nesting of
and, or, not, =>; chains of <=, >=, <, >, = between affine terms; + - * / as long as the term stays affine.
"""

from __future__ import annotations

import re
from fractions import Fraction
from itertools import pairwise
from typing import NamedTuple

from fathom.capture.vnnlib.declarations import Equivalence, Tensor
from fathom.capture.vnnlib.formula import And, Formula, Linear, Not, Or, Row, Variable, combination, less, name_of
from fathom.capture.vnnlib.tokens import Tokens
from fathom.core.errors import NotUnderstood

MOST_DIGITS = 1000
"""Of a number, and of what its exponent stands for: beyond any float, and still cheap to hold exactly."""

Item = int | Linear | Row | And | Or | Not | Tensor | Equivalence | None
"""What a list is made of: a word (its token's index), a term, a formula, a part of a declaration, or () as None."""

_NUMBER = re.compile(r"([-+]?)(?=\.?[0-9])([0-9]*)\.?([0-9]*)(?:[eE]([-+]?[0-9]+))?")
_VARIABLE = re.compile(r"([XY])_(0|[1-9][0-9]{0,8})")
_CONNECTIVES = ("and", "or", "not", "=>")
_COMPARISONS = ("<=", ">=", "<", ">", "=")
_ARITHMETIC = ("+", "-", "*", "/")
_FORMULAS = (Row, And, Or, Not)
TERM = "a number, a declared variable or a term (+ ...), (- ...), (* ...)"
AFFINE = "a number, so that the term stays affine in X and Y"
_FORMULA = "a comparison such as (<= X_0 1) or a connective such as (and ...)"


class Parsed(NamedTuple):
    """The numbers of inputs and outputs, and what all assertions say together."""

    inputs: int
    outputs: int
    formula: And


def parse(tokens: Tokens) -> Parsed:
    """A VNN-LIB 1 file as declared variables and one formula.

    Raises:
        NotUnderstood: with line and column, what was expected, and what came.
    """
    return Parser(tokens).run()


class Parser:
    """State of one run. A list being read is [index of its "(", item, item, ...]; its first item is its head.

    What VNN-LIB 2 says otherwise is in its own parser, which changes the methods `command`, `special`, `meaning`, `times` and
    `called`, and leaves the reading of formulas as it is.
    """

    start = "a command such as (declare-const X_0 Real) or (assert ...)"

    def __init__(self, tokens: Tokens) -> None:
        self.tokens = tokens
        self.texts = tokens.texts
        self.terms: dict[str, Linear] = {}  # what words mean: every declared variable, every number met so far
        self.declared: list[set[int]] = [set(), set()]  # numbers of X, of Y
        self.assertions: list[Formula] = []

    def run(self) -> Parsed:
        self.read()
        return Parsed(self.count("X"), self.count("Y"), And(self.assertions))

    def read(self) -> None:
        """All commands, one after another."""
        stack: list[list[Item]] = []
        for index, text in enumerate(self.texts):
            if text == "(":
                stack.append([index])
            elif not stack:
                raise self.tokens.error(index, self.start, repr(text))
            elif text != ")":
                stack[-1].append(index)
            else:
                done = stack.pop()
                if stack:
                    stack[-1].append(self.reduce(done))
                else:
                    self.command(done)
        if stack:
            raise self.tokens.error(opened(stack[-1]), "a `)` for this `(`", "the end of the file")

    def count(self, letter: str) -> int:
        """How many variables of a letter there are.

        Raises:
            NotUnderstood: none, or one is left out.
        """
        numbers = self.declared["XY".index(letter)]
        gap = next(i for i in range(len(numbers) + 1) if i not in numbers)
        if not numbers or gap < len(numbers):
            expected = f"(declare-const {letter}_{gap} Real): {letter}_0, {letter}_1, ... without a gap"
            raise self.tokens.error(len(self.texts), expected, "the end of the file")
        return len(numbers)

    # Commands, at the top level.

    def command(self, items: list[Item]) -> None:
        name = self.head(items)
        if name == "assert":
            self.arity(items, 1, 1)
            self.assertions.append(self.formula(items, 2))
        elif name == "declare-const":
            self.arity(items, 2, 2)
            self.declare(items, 3)
        elif name == "declare-fun":
            self.arity(items, 3, 3)
            if items[3] is not None:
                raise self.wrong(items, 3, "() for a constant")
            self.declare(items, 4)
        else:
            raise self.unknown(items, name, "declare-const, declare-fun or assert at the top level")

    def declare(self, items: list[Item], sort: int) -> None:
        name = self.word(items, 2)
        match = _VARIABLE.fullmatch(name)
        if not match:
            raise self.wrong(items, 2, "a variable's name, X_0, X_1, ... for inputs and Y_0, Y_1, ... for outputs")
        if name in self.terms:
            raise self.wrong(items, 2, "a name that is not declared yet")
        if self.word(items, sort) != "Real":
            raise self.wrong(items, sort, "the type Real")
        number = int(match[2])
        self.declared["XY".index(match[1])].add(number)
        variable: Variable = number if match[1] == "X" else ~number
        self.terms[name] = Linear({variable: 1}, Fraction(0))

    # Lists inside a command.

    def reduce(self, items: list[Item]) -> Item:
        if len(items) == 1:
            return None
        name = self.head(items)
        if name in _COMPARISONS:
            return self.comparison(items, name)
        if name in _CONNECTIVES:
            return self.connective(items, name)
        if name in _ARITHMETIC:
            return self.arithmetic(items, name)
        return self.special(items, name)

    def special(self, items: list[Item], name: str) -> Item:
        """A list that is neither term nor formula."""
        raise self.unknown(items, name, "and, or, not, =>, <=, >=, <, >, =, +, -, * or /")

    def connective(self, items: list[Item], name: str) -> Formula:
        if name == "not":
            self.arity(items, 1, 1)
            return Not(self.formula(items, 2))
        self.arity(items, 2 if name == "=>" else 0, None)
        parts = [self.formula(items, n) for n in range(2, len(items))]
        if name == "=>":  # a => b => c is a => (b => c): not a, or not b, or c
            return Or([*map(Not, parts[:-1]), parts[-1]])
        return And(parts) if name == "and" else Or(parts)

    def comparison(self, items: list[Item], name: str) -> Formula:
        self.arity(items, 2, None)
        terms = [self.term(items, n) for n in range(2, len(items))]
        rows: list[Formula] = []
        for left, right in pairwise(terms):
            if name != ">=" and name != ">":
                rows.append(less(left, right, strict=name == "<"))
            if name != "<=" and name != "<":
                rows.append(less(right, left, strict=name == ">"))
        return rows[0] if len(rows) == 1 else And(rows)

    def arithmetic(self, items: list[Item], name: str) -> Linear:
        self.arity(items, 2 if name == "/" else 1, None)
        terms = [self.term(items, n) for n in range(2, len(items))]
        if name == "+":
            return combination((1, term) for term in terms)
        if name == "-":
            return combination([(1 if len(terms) > 1 else -1, terms[0]), *((-1, term) for term in terms[1:])])
        factor = Fraction(1)
        base = Linear({}, Fraction(1))
        for n, term in enumerate(terms, 2):
            if any(term.coefficients.values()):
                if name == "/" and n > 2:
                    raise self.wrong(items, n, AFFINE)
                base = self.times(items, n, base, term) if base.coefficients else term
            elif name == "*" or n == 2:
                factor *= term.constant
            elif term.constant == 0:
                raise self.wrong(items, n, "a divisor other than 0")
            else:
                factor /= term.constant
        return combination([(factor, base)])

    def times(self, items: list[Item], n: int, left: Linear, right: Linear) -> Linear:
        """The product of two terms, neither of them constant; `right` is item n."""
        raise self.wrong(items, n, AFFINE)

    # Items of lists, as what they must be.

    def term(self, items: list[Item], n: int) -> Linear:
        item = items[n]
        if isinstance(item, Linear):
            return item
        if not isinstance(item, int):
            raise self.wrong(items, n, TERM)
        text = self.texts[item]
        known = self.terms.get(text)
        if known is None:
            known = self.terms[text] = self.meaning(items, n, text)
        return known

    def meaning(self, items: list[Item], n: int, text: str) -> Linear:
        """What a word says that was not met before, and is no declared variable of VNN-LIB 1."""
        if _VARIABLE.fullmatch(text):
            raise self.wrong(items, n, f"a variable that is declared before its use, by (declare-const {text} Real)")
        return Linear({}, self.number(items, n, text))

    def number(self, items: list[Item], n: int, text: str) -> Fraction:
        match = _NUMBER.fullmatch(text)
        if not match:
            raise self.wrong(items, n, TERM)
        if len(text) > MOST_DIGITS or (match[4] and abs(int(match[4])) > MOST_DIGITS):
            raise self.wrong(items, n, f"a number of at most {MOST_DIGITS} digits and an exponent of at most that")
        sign, whole, places, exponent = match.groups()
        number = Fraction(int(sign + whole + places), 10 ** len(places))
        return number * Fraction(10) ** int(exponent) if exponent else number

    def formula(self, items: list[Item], n: int) -> Formula:
        item = items[n]
        if isinstance(item, _FORMULAS):
            return item
        if isinstance(item, int) and self.texts[item] in ("true", "false"):
            return And([]) if self.texts[item] == "true" else Or([])
        raise self.wrong(items, n, _FORMULA)

    def word(self, items: list[Item], n: int) -> str:
        item = items[n]
        if not isinstance(item, int):
            raise self.wrong(items, n, "a word")
        return self.texts[item]

    def head(self, items: list[Item]) -> str:
        if len(items) == 1:
            raise self.tokens.error(opened(items), "a command such as (assert ...)", "()")
        return self.word(items, 1)

    def arity(self, items: list[Item], least: int, most: int | None) -> None:
        count = len(items) - 2
        if count < least or (most is not None and count > most):
            bound = str(least) if least == most else f"at least {least}"
            raise self.tokens.error(opened(items), f"{bound} argument{'s' * (least != 1)} of {self.head(items)}", str(count))

    # Errors.

    def wrong(self, items: list[Item], n: int, expected: str) -> NotUnderstood:
        """An error about item n of a list."""
        item = items[n]
        kinds = {int: "", Linear: "an arithmetic term", type(None): "()", Row: "a comparison"}
        kinds |= {Tensor: "a declaration", Equivalence: "a declaration"}
        got = repr(self.texts[item]) if isinstance(item, int) else kinds.get(type(item), "a formula")
        if isinstance(item, Linear) and len(item.coefficients) == 1:
            got += f" in {self.called(next(iter(item.coefficients)))}"
        return self.tokens.error(self.tokens.item(opened(items), n), expected, got)

    def called(self, variable: Variable) -> str:
        return name_of(variable)

    def unknown(self, items: list[Item], name: str, expected: str) -> NotUnderstood:
        return self.tokens.error(opened(items) + 1, expected, repr(name))


def opened(items: list[Item]) -> int:
    """The index of the token that opens a list."""
    opened = items[0]
    assert isinstance(opened, int)
    return opened
