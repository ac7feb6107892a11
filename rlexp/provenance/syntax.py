"""What a file's code says: as text that comments, layout and the version of Python do not change, and its imports."""

import ast
from typing import Any, NamedTuple

DOCUMENTED = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
PARTLY = (ast.If, *DOCUMENTED)  # nodes of which a part may not run
SILENT = ("ctx", "kind", "type_comment")  # fields that follow from others, or say nothing of what runs
TOLD = (ast.Import, ast.ImportFrom, ast.Call, ast.Name, ast.Constant)  # nodes that may tell what a module needs


class Syntax(NamedTuple):
    """A syntax tree, read once."""

    text: str
    told: list[Any]  # its nodes of the kinds TOLD


def normal(tree: ast.Module) -> Syntax:
    """A syntax tree as text without comments, layout, line ends, docstrings and what type checkers alone see.

    `ast.dump` writes every field, so that its text is another in each Python that adds one, and `ast.unparse` changes
    its mind on quotes and brackets. Here what is empty is left out, which makes fields that a file does not use
    harmless. Should a Python parse a file otherwise all the same, its runs are refused as those of other code.
    """
    out: list[str] = []
    told: list[Any] = []
    left: list[Any] = [tree]  # no recursion, as trees may be deep
    while left:
        node = left.pop()
        if isinstance(node, list):
            out.append(str(len(node)))
            left += reversed(node)
        elif isinstance(node, ast.AST):
            kind = type(node)
            out.append(kind.__name__)
            if kind in TOLD:
                told.append(node)
            unseen = _unseen(node) if kind in PARTLY else {}
            for field in kind._fields:
                if field in SILENT:
                    continue
                value: Any = unseen[field] if field in unseen else getattr(node, field, None)
                if value is not None and value != []:
                    out.append(field)
                    left.append(value)
        else:
            out.append(hex(node) if type(node) is int else repr(node))  # digits of long numbers are refused
    return Syntax("\n".join(out), told)


def _unseen(node: ast.AST) -> dict[str, list[ast.stmt]]:
    """Fields of which a part does not run, less that part."""
    if isinstance(node, ast.If):
        negated = isinstance(node.test, ast.UnaryOp) and isinstance(node.test.op, ast.Not)
        test = node.test.operand if isinstance(node.test, ast.UnaryOp) else node.test
        if getattr(test, "id", getattr(test, "attr", "")) == "TYPE_CHECKING":
            return {"orelse" if negated else "body": []}
    elif isinstance(node, DOCUMENTED) and ast.get_docstring(node, clean=False) is not None:
        return {"body": node.body[1:]}
    return {}
