"""What a statement is, how a part collects its statements, and the ways a proof can fail."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import sympy as sp
from sympy.polys.fields import FracElement


class RefutedError(AssertionError):
    """A statement does not hold for the function it is about."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Statement:
    """One theorem: what it claims, how it is derived, and a check on the functions that run.

    Args:
        name: ``part.statement``, unique.
        title: Heading on the page.
        claim: The statement in one sentence, the first line of the check's docstring.
        text: Derivation and meaning, the rest of that docstring; ``<<key>>`` stands for an entry of ``formulas``
            or for a picture of `plots`.
        functions: The functions of `ab_schedulers` that the statement is about.
        source: Where the statement is from.
        formulas: Computes the formulas and tables that the text shows.
        prove: Returns if the statement holds, raises `RefutedError` if not.
    """

    name: str
    title: str
    claim: str
    text: str
    functions: tuple[Callable[..., Any], ...]
    source: str
    formulas: Callable[[], Mapping[str, str]]
    prove: Callable[[], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """A page of statements on one subject.

    Args:
        number: Place in the contents.
        slug: Name in statement names and in the file name of the page.
        title: Heading of the page.
        opening: What the page answers, and for whom.
        statements: Filled by `proves`.
    """

    number: int
    slug: str
    title: str
    opening: str
    statements: list[Statement] = field(default_factory=list)

    def proves(
        self,
        title: str,
        *,
        functions: Iterable[Callable[..., Any]] = (),
        source: str,
        formulas: Callable[[], Mapping[str, str]] = dict,
    ) -> Callable[[Callable[[], None]], Callable[[], None]]:
        """Register the decorated check as a statement; its name and docstring name and explain the statement."""

        def register(check: Callable[[], None]) -> Callable[[], None]:
            claim, _, text = (inspect.getdoc(check) or "").partition("\n\n")
            statement = Statement(
                name=f"{self.slug}.{check.__name__}",
                title=title,
                claim=claim,
                text=text,
                functions=tuple(functions),
                source=source,
                formulas=formulas,
                prove=check,
            )
            self.statements.append(statement)
            return check

        return register


def require(condition: Any, what: str) -> None:
    """Raise `RefutedError` unless ``condition`` is true."""
    if condition is not sp.true and condition is not True:
        raise RefutedError(f"{what}: {condition}")


def require_equal(left: Any, right: Any, what: str) -> None:
    """Raise `RefutedError` unless two numbers, sympy expressions or elements of a `rational_functions` field agree."""
    if left == right:
        return
    if not isinstance(left, FracElement) and not isinstance(right, FracElement):
        difference = sp.sympify(left) - sp.sympify(right)
        if difference == 0 or sp.cancel(sp.together(difference)) == 0 or sp.simplify(difference) == 0:
            return
    raise RefutedError(f"{what}: {left} is not {right}")


def require_all_equal(left: Iterable[Any], right: Iterable[Any], what: str) -> None:
    """`require_equal` on every pair; the two must be equally long."""
    for place, (a, b) in enumerate(zip(left, right, strict=True)):
        require_equal(a, b, f"{what}, entry {place}")


def rational_functions(names: str) -> list[Any]:
    """Indeterminates of a field of rational functions over the rationals, where equality is decided at once.

    Arithmetic on them keeps one reduced fraction, so ``==`` between two results is a proof of identity.
    """
    return list(sp.field(names, sp.QQ)[1:])


def as_expr(value: Any) -> sp.Expr:
    """A number or an element of a field as a sympy expression."""
    return value.as_expr() if isinstance(value, FracElement) else sp.sympify(value)
