"""No coefficient is typed: the numerics hold only the smallest integers, and no file spells a known weight."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path

import pytest

from ab_schedulers.numerics import (
    adams_bashforth_error_constant,
    adams_bashforth_weights,
    adams_moulton_error_constant,
    adams_moulton_weights,
    binomial_weights,
)

ROOT = Path(__file__).parents[1]
FOLDERS = ("ab_schedulers", "theory")
FILES = sorted(path for folder in FOLDERS for path in (ROOT / folder).rglob("*.py"))
NUMERICS = sorted((ROOT / "ab_schedulers" / "numerics").glob("*.py"))
ORDERS = range(2, 9)
ROWS = [w(k) for k in ORDERS for w in (adams_bashforth_weights, adams_moulton_weights, binomial_weights)]
CONSTANTS = {c(k) for k in ORDERS for c in (adams_bashforth_error_constant, adams_moulton_error_constant)}
# A half, or a third, is a number like any other; 5/12 is not.
TELLING = {value for value in {*CONSTANTS, *(w for row in ROWS for w in row)} if value.denominator > 4}


def number(node: ast.AST) -> Fraction | None:
    """Value of a literal number, quotient or fraction of literals."""
    if isinstance(node, ast.Constant) and isinstance(node.value, (int, float)) and not isinstance(node.value, bool):
        return Fraction(node.value).limit_denominator(10**9)
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
        inner = number(node.operand)
        return None if inner is None else -inner
    parts: list[ast.expr] = []
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Div):
        parts = [node.left, node.right]
    elif isinstance(node, ast.Call) and ast.unparse(node.func).split(".")[-1] in ("Fraction", "Rational"):
        parts = node.args if len(node.args) == 2 else []
    values = [number(part) for part in parts]
    if len(values) != 2 or values[0] is None or not values[1]:
        return None
    return values[0] / values[1]


def typed(source: str) -> Iterator[str]:
    """Places of a file that spell a known weight or error constant, or a row up to a common factor."""
    for node in ast.walk(ast.parse(source)):
        value = number(node)
        if value is not None and {value, -value} & TELLING:
            yield f"line {node.lineno}: {ast.unparse(node)}"  # type: ignore[attr-defined]
        if isinstance(node, (ast.Tuple, ast.List)) and len(node.elts) > 2:
            values = [number(element) for element in node.elts]
            if all(v is not None for v in values) and any(map(proportional(values), ROWS)):
                yield f"line {node.lineno}: {ast.unparse(node)}"


def proportional(values: list[Fraction | None]) -> object:
    """A test whether a row, in either direction, is a multiple of ``values``."""

    def matches(row: tuple[Fraction, ...]) -> bool:
        return any(
            len(row) == len(given) and all(a * given[0] == b * row[0] for a, b in zip(row, given, strict=True))
            for given in (values, values[::-1])
        )

    return matches


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_no_known_coefficient_is_spelt_in(path: Path) -> None:
    assert list(typed(path.read_text(encoding="utf-8"))) == []


@pytest.mark.parametrize(
    "source",
    [
        "x = 5 / 12",
        "x = Fraction(-19, 720)",
        "x = sp.Rational(251, 720)",
        "x = [55, -59, 37, -9]",
        "x = (23 / 12, -16 / 12, 5 / 12)",
        "x = (3, -3, 1)",
        "x = [1, -4, 6, -4]",
        "x = 0.375 * h",
    ],
)
def test_a_typed_coefficient_would_be_found(source: str) -> None:
    assert list(typed(source))


@pytest.mark.parametrize("path", NUMERICS, ids=lambda path: path.name)
def test_the_numerics_hold_no_number_beyond_the_smallest(path: Path) -> None:
    """3 is the highest order of DPM-Solver, 5 an exponent, 32 the points of a quadrature."""
    allowed = {"base_steps.py": {3}, "noise_scales.py": {5}, "integral_rows.py": {32}}.get(path.name, set()) | {0, 1, 2}
    literals = {
        node.value
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Constant) and isinstance(node.value, (int, float)) and not isinstance(node.value, bool)
    }
    assert not {value for value in literals if isinstance(value, float)}
    assert literals <= allowed
