"""Cohorts as text, such as ``age >= 18 and view in ['PA', 'AP']``: read safely, unknown satisfies nothing.

Allowed are names of columns, numbers and texts, comparisons (also chained: ``20 < age <= 60``), ``in`` and
``not in`` a list, ``and``, ``or``, ``not`` and parentheses. ``col is None`` selects unknown values and
``col is not None`` for known ones; any other comparison with an unknown value is unknown, ``not`` of
unknown is unknown, and a row for which the whole is unknown is left out.
"""

from __future__ import annotations

import ast
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from evalfm.errors import EvalfmError, UnknownNameError

Booleans: TypeAlias = NDArray[np.bool_]
Value: TypeAlias = float | str

LONGEST = 1000

_COMPARISONS: dict[type[ast.cmpop], Callable[[NDArray[np.generic], NDArray[np.generic]], Booleans]] = {
    ast.Eq: np.equal,
    ast.NotEq: np.not_equal,
    ast.Lt: np.less,
    ast.LtE: np.less_equal,
    ast.Gt: np.greater,
    ast.GtE: np.greater_equal,
}


@dataclass(frozen=True)
class _Truth:
    """Three-valued answers: ``holds`` and ``fails`` are never both true; neither means unknown."""

    holds: Booleans
    fails: Booleans


@dataclass(frozen=True)
class _Operand:
    """One side of a comparison: values [N], which of them are known, and how to name it in a message."""

    values: NDArray[np.generic]
    known: Booleans
    is_text: bool
    name: str
    is_column: bool


def evaluate(expr: str, table: pd.DataFrame) -> Booleans:
    """Which rows of ``table`` satisfy ``expr``, bool [N]; an unknown value satisfies no comparison.

    Raises:
        UnknownNameError: the expression names a column that is not there.
        EvalfmError: it is no expression of the allowed form, or compares texts with numbers.

    >>> table = pd.DataFrame({"age": [17.0, 64.0, np.nan], "view": ["PA", "AP", "PA"]})
    >>> evaluate("age >= 18 and view in ['PA', 'AP']", table).tolist()
    [False, True, False]
    """
    return _truth(_parse(expr), table, expr).holds


def columns_of(expr: str) -> list[str]:
    """Names of the columns that ``expr`` reads, each once, in order.

    Raises:
        EvalfmError: it is no expression.

    >>> sorted(columns_of("age >= 18 and view == 'PA'"))
    ['age', 'view']
    """
    names = [node.id for node in ast.walk(_parse(expr)) if isinstance(node, ast.Name)]
    return list(dict.fromkeys(names))


def _parse(expr: str) -> ast.expr:
    if len(expr) > LONGEST:
        raise EvalfmError(
            f"An expression may have {LONGEST} characters, this one has {len(expr)}; add a column instead."
        )
    try:
        return ast.parse(expr.strip(), mode="eval").body
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        reason = error.msg if isinstance(error, SyntaxError) else str(error)
        raise EvalfmError(
            f"{expr!r} is no expression ({reason}); write for example \"age >= 18 and sex == 'F'\"."
        ) from None


def _truth(node: ast.expr, table: pd.DataFrame, expr: str) -> _Truth:
    if isinstance(node, ast.BoolOp):
        parts = [_truth(value, table, expr) for value in node.values]
        holds, fails = [part.holds for part in parts], [part.fails for part in parts]
        if isinstance(node.op, ast.And):
            return _Truth(np.logical_and.reduce(holds), np.logical_or.reduce(fails))
        return _Truth(np.logical_or.reduce(holds), np.logical_and.reduce(fails))
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Not):
        inner = _truth(node.operand, table, expr)
        return _Truth(inner.fails, inner.holds)
    if isinstance(node, ast.Compare):
        return _comparison(node, table, expr)
    if isinstance(node, ast.Name):
        raise EvalfmError(f"In {expr!r} the column {node.id!r} stands alone; compare it, such as `{node.id} == 1`.")
    raise _refused(node, expr)


def _comparison(node: ast.Compare, table: pd.DataFrame, expr: str) -> _Truth:
    holds = np.ones(len(table), dtype=bool)
    fails = np.zeros(len(table), dtype=bool)
    left = node.left
    for operator, right in zip(node.ops, node.comparators, strict=True):
        link = _link(left, operator, right, table, expr)
        holds, fails = holds & link.holds, fails | link.fails
        left = right
    return _Truth(holds, fails)


def _link(left: ast.expr, operator: ast.cmpop, right: ast.expr, table: pd.DataFrame, expr: str) -> _Truth:
    if isinstance(operator, ast.Is | ast.IsNot):
        if not (isinstance(left, ast.Name) and isinstance(right, ast.Constant) and right.value is None):
            raise EvalfmError(f"In {expr!r} `is` selects only unknown values; write `column is None` or use `==`.")
        known = _operand(left, table, expr).known
        return _Truth(known, ~known) if isinstance(operator, ast.IsNot) else _Truth(~known, known)
    first = _operand(left, table, expr)
    if isinstance(operator, ast.In | ast.NotIn):
        inside = _inside(first, right, table, expr)
        answer = ~inside if isinstance(operator, ast.NotIn) else inside
        return _Truth(answer & first.known, ~answer & first.known)
    second = _operand(right, table, expr)
    if not (first.is_column or second.is_column):
        raise EvalfmError(f"In {expr!r} {first.name} is compared with {second.name}; one side must be a column.")
    _same_type(first, second, expr)
    if (first.is_text or second.is_text) and not isinstance(operator, ast.Eq | ast.NotEq):
        raise EvalfmError(f"In {expr!r} {first.name} and {second.name} are texts, which have no order; use == or in.")
    answer = np.asarray(_COMPARISONS[type(operator)](first.values, second.values), dtype=bool)
    known = first.known & second.known
    return _Truth(answer & known, ~answer & known)


def _inside(operand: _Operand, node: ast.expr, table: pd.DataFrame, expr: str) -> Booleans:
    if not isinstance(node, ast.List | ast.Tuple | ast.Set) or not node.elts:
        raise EvalfmError(f"In {expr!r} `in` needs a list of values, such as `view in ['PA', 'AP']`.")
    inside = np.zeros(len(table), dtype=bool)
    for element in node.elts:
        other = _operand(element, table, expr)
        if other.is_column or not operand.is_column:
            raise EvalfmError(f"In {expr!r} `in` stands between a column and a list of plain values.")
        _same_type(operand, other, expr)
        inside |= np.asarray(operand.values == other.values, dtype=bool)
    return inside


def _operand(node: ast.expr, table: pd.DataFrame, expr: str) -> _Operand:
    if isinstance(node, ast.Name):
        if node.id not in table.columns:
            raise UnknownNameError("column", node.id, [str(name) for name in table.columns])
        return _column(node.id, table[node.id])
    value = _constant(node, expr)
    values = np.full(len(table), value, dtype=object if isinstance(value, str) else np.float64)
    return _Operand(values, np.ones(len(table), dtype=bool), isinstance(value, str), repr(value), False)


def _constant(node: ast.expr, expr: str) -> Value:
    if isinstance(node, ast.Constant):
        if isinstance(node.value, str):
            return node.value
        if isinstance(node.value, int | float):
            return float(node.value)
        if node.value is None:
            raise EvalfmError(f"In {expr!r} select unknown values with `is None` or `is not None`.")
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub) and isinstance(node.operand, ast.Constant):
        value = node.operand.value
        if isinstance(value, int | float):
            return -float(value)
    raise _refused(node, expr)


def _column(name: str, column: pd.Series) -> _Operand:
    known = column.notna().to_numpy(dtype=bool)
    label = f"the column {name!r}"
    if pd.api.types.is_bool_dtype(column.dtype) or pd.api.types.is_numeric_dtype(column.dtype):
        numbers = column.astype(object).where(known, np.nan).astype(np.float64).to_numpy()
        return _Operand(numbers, known, False, label, True)
    values = column.astype(object).to_numpy()
    if known.any() and all(isinstance(value, bool | int | float | np.number | np.bool_) for value in values[known]):
        return _Operand(np.where(known, values, np.nan).astype(np.float64), known, False, label, True)
    if not known.any():
        return _Operand(np.full(len(column), np.nan), known, False, label, True)
    text = np.array([str(value) if there else "" for value, there in zip(values, known, strict=True)], dtype=object)
    known = known & (text != "")
    return _Operand(text, known, True, label, True)


def _same_type(first: _Operand, second: _Operand, expr: str) -> None:
    # A column without one known value has no type: whatever it is compared with, the answer is unknown.
    if any(side.is_column and not side.known.any() for side in (first, second)):
        return
    if first.is_text != second.is_text:
        text, number = (first, second) if first.is_text else (second, first)
        raise EvalfmError(f"In {expr!r} {text.name} is text and {number.name} is a number; write both alike.")


def _refused(node: ast.expr, expr: str) -> EvalfmError:
    kinds: dict[type[ast.expr], str] = {
        ast.Call: "function calls",
        ast.Attribute: "dots",
        ast.Subscript: "square brackets after a name",
        ast.BinOp: "arithmetic",
        ast.Lambda: "functions",
        ast.IfExp: "if … else",
        ast.Constant: "values that stand alone",
    }
    what = kinds.get(type(node), "nested answers and other forms")
    return EvalfmError(
        f"In {expr!r} {what} are not allowed; compare columns with numbers and texts, join by and, or, not."
    )
