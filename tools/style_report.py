"""Print how the package reads, in figures: `python tools/style_report.py [FOLDER]`.

The figures are aims, not gates. FOLDER (default: src/textmask) is searched for Python files. To measure an older
version: `git archive COMMIT src | tar -x -C OTHER`, then give OTHER/src.
"""

from __future__ import annotations

import ast
import io
import sys
import tokenize
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

LONG_BODY = 15  # lines from which blank lines inside a function are counted
LONG_LINE = 100
COMPREHENSIONS = (ast.ListComp, ast.SetComp, ast.DictComp, ast.GeneratorExp)
FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)
Function = ast.FunctionDef | ast.AsyncFunctionDef


@dataclass
class Figures:
    """Counts over all files that were read. Code lines are those without blank lines, comments and docstrings."""

    lines: int = 0
    code_lines: int = 0
    docstring_lines: int = 0
    comments: int = 0
    long_lines: int = 0
    body_lines: int = 0
    body_blanks: int = 0
    comprehensions: int = 0
    double_comprehensions: int = 0
    dict_merges: int = 0
    functions: int = 0
    private: list[str] = field(default_factory=list)
    parameters: list[tuple[int, str]] = field(default_factory=list)
    names: Counter[str] = field(default_factory=Counter)


def is_command(function: Function) -> bool:
    """Whether the function is registered on a command line, whose signature is its options."""
    decorators = {ast.unparse(decorator).split("(")[0] for decorator in function.decorator_list}
    return any(name.endswith((".command", ".callback")) for name in decorators)


def docstring_lines(tree: ast.Module) -> set[int]:
    """Numbers of the lines that docstrings of the module, its classes and functions take."""
    numbers: set[int] = set()
    for node in ast.walk(tree):
        if not isinstance(node, ast.Module | ast.ClassDef | Function) or not node.body:
            continue
        first = node.body[0]
        if ast.get_docstring(node, clean=False) is not None:
            numbers.update(range(first.lineno, first.end_lineno + 1))
    return numbers


def read_function(function: Function, lines: list[str], where: str, figures: Figures) -> None:
    """Count one function: parameters, privacy, and blank lines after the docstring."""
    figures.functions += 1
    if function.name.startswith("_") and not function.name.startswith("__"):
        figures.private.append(function.name)

    arguments = function.args
    count = len(arguments.posonlyargs) + len(arguments.args) + len(arguments.kwonlyargs)
    if not is_command(function):
        figures.parameters.append((count, f"{where}:{function.name}"))

    # the body starts behind the docstring; a docstring's own blank lines are not paragraphs
    body = function.body
    if ast.get_docstring(function, clean=False) is not None:
        body = body[1:]
    if not body:
        return
    inside = lines[body[0].lineno - 1 : body[-1].end_lineno]
    if len(inside) >= LONG_BODY:
        figures.body_lines += len(inside)
        figures.body_blanks += sum(not line.strip() for line in inside)


def is_dict_merge(node: ast.AST) -> bool:
    """Whether the node is `a | b` or `a |= b` with a dict display on one side (merges of two names are not seen)."""
    if isinstance(node, ast.AugAssign) and isinstance(node.op, ast.BitOr):
        sides = [node.value]
    elif isinstance(node, ast.BinOp) and isinstance(node.op, ast.BitOr):
        sides = [node.left, node.right]
    else:
        return False
    return any(isinstance(side, ast.Dict | ast.DictComp) for side in sides)


def read_file(path: Path, root: Path, figures: Figures) -> int:
    """Add one file to the figures; its number of lines."""
    source = path.read_text("utf-8")
    lines = source.splitlines()
    tree = ast.parse(source)
    documented = docstring_lines(tree)
    figures.lines += len(lines)
    figures.docstring_lines += len(documented)
    for number, line in enumerate(lines, 1):
        if line.strip() and not line.lstrip().startswith("#") and number not in documented:
            figures.code_lines += 1
            figures.long_lines += len(line) > LONG_LINE
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        figures.comments += token.type == tokenize.COMMENT

    where = str(path.relative_to(root))
    for node in ast.walk(tree):
        if isinstance(node, FUNCTIONS):
            read_function(node, lines, where, figures)
        elif isinstance(node, COMPREHENSIONS):
            figures.comprehensions += 1
            figures.double_comprehensions += len(node.generators) > 1
        elif isinstance(node, ast.Name):
            figures.names[node.id] += 1
        elif isinstance(node, ast.Attribute):
            figures.names[node.attr] += 1
        figures.dict_merges += is_dict_merge(node)
    return len(lines)


def largest(sizes: Counter[str], total: int, count: int) -> str:
    """The largest entries with their share of all lines."""
    found = [f"{name} {n} ({100 * n / total:.1f} %)" for name, n in sizes.most_common(count)]
    return ", ".join(found)


def report(root: Path) -> str:
    """Measure all Python files under a folder.

    Raises:
        SystemExit: the folder contains no Python file.
    """
    figures, files, folders = Figures(), Counter[str](), Counter[str]()
    for path in sorted(root.rglob("*.py")):
        name = path.relative_to(root)
        size = read_file(path, root, figures)
        files[str(name)] = size
        folders[name.parts[0] if len(name.parts) > 1 else "(top)"] += size
    if not figures.lines:
        raise SystemExit(f"{root}: found no Python file. Give the folder of a package.")

    thousands = figures.code_lines / 1000  # of code, so that docstrings do not thin the counts out
    once = sum(figures.names[name] == 1 for name in figures.private)
    private_share = 100 * len(figures.private) / max(figures.functions, 1)
    once_share = 100 * once / max(len(figures.private), 1)
    most, most_name = max(figures.parameters, default=(0, "-"))
    rows = [
        ("lines", f"{figures.lines} in {len(files)} files", ""),
        ("lines of code", str(figures.code_lines), ""),
        (
            f"blank lines in bodies of {LONG_BODY}+ lines",
            f"{100 * figures.body_blanks / max(figures.body_lines, 1):.1f} %",
            "about 8 %",
        ),
        (
            "comprehensions per 1000 code lines",
            f"{figures.comprehensions / thousands:.1f}",
            "under 30",
        ),
        ("comprehensions with two fors", str(figures.double_comprehensions), "0"),
        ("dict merges with | per 1000 code lines", f"{figures.dict_merges / thousands:.1f}", "0"),
        ("comments per 100 code lines", f"{figures.comments / thousands / 10:.1f}", "4 to 6"),
        ("private functions", f"{private_share:.0f} %", "6 to 16 %"),
        ("of them used once", f"{once_share:.0f} %", "38 to 48 %"),
        (
            f"code lines over {LONG_LINE} characters",
            f"{100 * figures.long_lines / figures.code_lines:.1f} %",
            "under 4 %",
        ),
        ("most parameters (not commands)", f"{most} ({most_name})", "8"),
        (
            "docstring lines",
            f"{100 * figures.docstring_lines / figures.lines:.1f} %",
            "at most 30 %",
        ),
    ]
    text = [f"{title:<41}{value:<46}{aim}".rstrip() for title, value, aim in rows]
    text.append(f"largest folders: {largest(folders, figures.lines, 8)}")
    text.append(f"largest files: {largest(files, figures.lines, 8)}")
    return "\n".join(text)


def main() -> None:
    """Print the report of the folder on the command line."""
    default = Path(__file__).resolve().parents[1] / "src" / "textmask"
    print(report(Path(sys.argv[1]) if len(sys.argv) > 1 else default))


if __name__ == "__main__":
    main()
