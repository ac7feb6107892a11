"""What of a file counts as code."""

import ast

import pytest

from rlexp.provenance import modules, syntax

CODE = '''"""What it is."""
import math  # of numbers
if math.TYPE_CHECKING:
    import unseen
else:
    import seen


class Loss:
    """A loss."""

    def __call__(self, x, k=(1.5, None, True, b"a", 1 << 70)):
        """Of x."""
        return f"{x!r:>{k}}" if x else "a \\\\d\\n"
'''


SAME = [
    CODE.replace("  # of numbers", ""),
    CODE.replace("\n", "\r\n"),
    CODE.replace("Of x.", "Of all\n        x."),
    CODE.replace('    """A loss."""\n\n', ""),
    CODE.replace("(1.5, None", "(\n  1.50,\n  None"),
    CODE.replace('else "a', 'else u"a'),
    CODE.replace("import unseen", "import unseen, more"),
    "\ufeff" + CODE.replace('"""What it is."""', "# what it is"),
]


OTHER = [
    CODE.replace("1.5", "1.25"),
    CODE.replace("True", "1"),
    CODE.replace("!r", "!s"),
    CODE.replace(" if x", " if not x"),
    CODE.replace('b"a"', '"a"'),
    CODE.replace("k=(", "*, k=("),
    CODE.replace("70", "71"),
    CODE.replace("import seen", "import seen, more"),
    CODE.replace("if math", "if not math"),
    CODE + "(",
]


def digest_of(tmp_path, text):
    file = tmp_path / f"{abs(hash(text))}.py"
    file.write_bytes(text.encode())
    return modules.read("own", file).digest


@pytest.mark.parametrize("text", SAME)
def test_comments_layout_and_docstrings_are_no_code(tmp_path, text):
    assert text != CODE
    assert digest_of(tmp_path, text) == digest_of(tmp_path, CODE)


def test_everything_else_is_and_no_two_edits_look_alike(tmp_path):
    assert len({digest_of(tmp_path, text) for text in [CODE, *OTHER]}) == len(OTHER) + 1


def test_a_digest_does_not_depend_on_fields_that_other_versions_of_python_add():
    tree = ast.parse("def f(x: int) -> str:\n    return [x, None, ...]\n")
    before = syntax.normalize(tree)
    tree.body[0].type_params, tree.body[0].type_comment = [], None  # as Python 3.12 has them
    type(tree.body[0])._fields, fields = (*type(tree.body[0])._fields, "added"), type(tree.body[0])._fields
    try:
        tree.body[0].added = []
        assert syntax.normalize(tree) == before
    finally:
        type(tree.body[0])._fields = fields


def test_deep_code_is_read(tmp_path):
    deep = "x = " + "+".join(["1"] * 900) + "\n"
    assert digest_of(tmp_path, deep) == digest_of(tmp_path, deep + "# one more\n")
