"""House rules that no linter checks: the sizes of files and functions, and what the repository may mention."""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
SOURCES = sorted(p for folder in ("src", "scripts", "tests") for p in (ROOT / folder).rglob("*.py"))
MAX_FILE_LINES = 400
MAX_FUNCTION_LINES = 50


def body_length(node: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    """Lines of a function without its docstring: a thorough docstring is no reason to split a function."""
    length = (node.end_lineno or 0) - node.lineno + 1
    first = node.body[0]
    if isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant) and isinstance(first.value.value, str):
        length -= (first.end_lineno or 0) - first.lineno + 1
    return length


@pytest.mark.parametrize("path", SOURCES, ids=lambda p: str(p.relative_to(ROOT)))
def test_files_and_functions_can_be_read_in_one_sitting(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert text.count("\n") <= MAX_FILE_LINES
    functions = [n for n in ast.walk(ast.parse(text)) if isinstance(n, ast.FunctionDef | ast.AsyncFunctionDef)]
    assert [f.name for f in functions if body_length(f) > MAX_FUNCTION_LINES] == []


def test_documents_name_no_private_path() -> None:
    documents = [p for p in ROOT.rglob("*.md") if not {".venv", "demo_output"} & set(p.relative_to(ROOT).parts)]
    assert documents
    for path in documents:
        private = re.findall(r"(?<![\w.])/(?:home|root|work|Users)/\S+", path.read_text(encoding="utf-8"))
        assert private == [], path
