"""Normalized syntax trees: text independent of comments, layout and Python version, for digests."""

import ast
from typing import Any, NamedTuple

DOCUMENTED = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
PARTLY = (ast.If, *DOCUMENTED)  # nodes with parts that may not run
SKIPPED = ("ctx", "kind", "type_comment")  # fields that are redundant or do not affect execution
COLLECTED = (ast.Import, ast.ImportFrom, ast.Call, ast.Name, ast.Constant)  # nodes that may name dependencies


class Syntax(NamedTuple):
    """A normalized syntax tree."""

    text: str
    nodes: list[Any]  # its nodes of the types in COLLECTED


def normalize(tree: ast.Module) -> Syntax:
    """Syntax tree as text without comments, layout, line ends, docstrings and TYPE_CHECKING blocks.

    `ast.dump` writes every field, so its text changes in each Python that adds one; `ast.unparse` changes quotes and
    brackets between versions. Here empty fields are left out, so that new ones do not matter. If a Python still parses
    a file differently, its runs are refused as made by other code.
    """
    out: list[str] = []
    nodes: list[Any] = []
    left: list[Any] = [tree]  # iterative, as trees may be deep
    while left:
        node = left.pop()
        if isinstance(node, list):
            out.append(str(len(node)))
            left += reversed(node)
        elif isinstance(node, ast.AST):
            kind = type(node)
            out.append(kind.__name__)
            if kind in COLLECTED:
                nodes.append(node)
            unseen = _unseen(node) if kind in PARTLY else {}
            for field in kind._fields:
                if field in SKIPPED:
                    continue
                value: Any = unseen[field] if field in unseen else getattr(node, field, None)
                if value is not None and value != []:
                    out.append(field)
                    left.append(value)
        else:
            out.append(
                hex(node) if type(node) is int else repr(node)
            )  # Python refuses to print very long integers in decimal
    return Syntax("\n".join(out), nodes)


def _unseen(node: ast.AST) -> dict[str, list[ast.stmt]]:
    """Fields with parts that do not run, without those parts."""
    if isinstance(node, ast.If):
        negated = isinstance(node.test, ast.UnaryOp) and isinstance(node.test.op, ast.Not)
        test = node.test.operand if isinstance(node.test, ast.UnaryOp) else node.test
        if getattr(test, "id", getattr(test, "attr", "")) == "TYPE_CHECKING":
            return {"orelse" if negated else "body": []}
    elif isinstance(node, DOCUMENTED) and ast.get_docstring(node, clean=False) is not None:
        return {"body": node.body[1:]}
    return {}
