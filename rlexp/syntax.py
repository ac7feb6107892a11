"""What a file's code says, as text that comments, layout and the version of Python do not change."""

import ast
from typing import Any

DOCUMENTED = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)


def normal(tree: ast.Module) -> str:
    """A syntax tree as text without comments, layout, line ends and docstrings.

    `ast.dump` writes every field, so that its text is another in each Python that adds one, and `ast.unparse` changes
    its mind on quotes and brackets. Here what is empty is left out, which makes fields that a file does not use
    harmless. Should a Python parse a file otherwise all the same, its runs are refused as those of other code.
    """
    out: list[str] = []
    left: list[Any] = [tree]
    while left:
        node = left.pop()
        if isinstance(node, list):
            out.append(str(len(node)))
            left += reversed(node)
        elif isinstance(node, ast.AST):
            out.append(type(node).__name__)
            documented = isinstance(node, DOCUMENTED) and ast.get_docstring(node, clean=False) is not None
            for field in node._fields:
                value: Any = getattr(node, field, None)
                value = value[1:] if documented and field == "body" else value
                if value is not None and value != [] and field not in ("ctx", "kind", "type_comment"):
                    out.append(field)
                    left.append(value)
        else:
            out.append(hex(node) if type(node) is int else repr(node))  # digits of long numbers are refused
    return "\n".join(out)
