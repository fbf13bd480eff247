"""The structure of the package: imports point downwards, folders stay small, a name is defined once."""

import ast
import subprocess
import sys
from collections import Counter, defaultdict
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1] / "src" / "textmask"
# from the ground up: a module imports from floors below its own, and from its own folder. On the ground anything goes
# as long as it makes no circle.
FLOORS = (
    (
        "statement",
        "errors",
        "types",
        "config",
        "overrides",
        "weights",
        "compiled",
        "progress",
        "parallel",
        "cluster",
        "processes",
    ),
    ("text", "plots"),
    ("io", "nn", "losses", "metrics"),
    ("data",),
    ("layouts",),
    ("methods",),
    ("runs",),
    ("inference",),
    ("evaluation", "training"),
    ("reports", "studies", "pacs"),
    ("export", "serve"),
    ("demo",),
    ("functions",),
    ("cli",),
    ("__init__", "__main__", "method"),
)
FLOOR = {name: number for number, names in enumerate(FLOORS) for name in names}
ONE_FILE = {
    "matplotlib",
    "jinja2",
    "mlflow",
    "tensorboard",
    "openpyxl",
    "PIL",
    "highdicom",
    "fastapi",
    "ray",
    "submitit",
    "pydicom",
    "dicomweb_client",
    "nibabel",
    "onnx",
    "onnxruntime",
    "openvino",
    "uvicorn",
    "prometheus_client",
    "webdataset",
    "monai",
}
NEVER = {"torchvision", "timm", "medpy", "torchmetrics", "pickle"}
MAX_SHARE = 0.12  # of the package's lines, for each folder
MAX_LINES = 450  # of a file
FILES = sorted(ROOT.rglob("*.py"))
# names that several modules define on purpose
SHARED_NAMES = {
    "SPEC": "what each method's package exports",
    "__all__": "part of Python",
    "__getattr__": "part of Python, for names that are imported when they are used",
}


def module(path: Path) -> str:
    name = ".".join(path.relative_to(ROOT).with_suffix("").parts)
    return name if name == "__init__" else name.removesuffix(".__init__")


def folder(name: str) -> str:
    return name.split(".")[0]


def imports(path: Path, *, at_runtime: bool = False) -> set[str]:
    """Everything a file imports; `at_runtime` leaves out what only type checkers see."""
    tree = ast.parse(path.read_text("utf-8"))
    skipped = set()
    if at_runtime:
        for node in ast.walk(tree):
            if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
                skipped |= set(ast.walk(node))
    found = set()
    for node in ast.walk(tree):
        if node in skipped:
            continue
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {f"{node.module}.{alias.name}" for alias in node.names} | {node.module}
    return found


def ours(path: Path, *, at_runtime: bool = False) -> set[str]:
    names = imports(path, at_runtime=at_runtime)
    return {name.removeprefix("textmask.") for name in names if name.startswith("textmask.")}


def test_every_part_has_a_floor():
    assert {folder(module(path)) for path in FILES} == set(FLOOR)


@pytest.mark.parametrize("path", FILES, ids=module)
def test_imports_point_downwards(path):
    name = module(path)
    for other in ours(path) - {"__version__"}:
        a, b = folder(name), folder(other)
        below = FLOOR[b] < FLOOR[a] or FLOOR[b] == 0 == FLOOR[a]
        assert a == b or below, f"{name} (floor {FLOOR[a]}) imports {other} (floor {FLOOR[b]})"


def test_there_is_no_import_circle():
    modules = {module(path) for path in FILES}
    graph = {module(path): ours(path, at_runtime=True) & modules for path in FILES}
    state: dict[str, str] = {}

    def visit(name: str, trail: tuple[str, ...]) -> None:
        assert state.get(name) != "open", (
            f"circle: {' -> '.join((*trail[trail.index(name) :], name))}"
        )
        if name not in state:
            state[name] = "open"
            for other in sorted(graph[name] - {name}):
                visit(other, (*trail, name))
            state[name] = "done"

    for name in sorted(graph):
        visit(name, ())


@pytest.mark.parametrize("path", FILES, ids=module)
def test_no_method_imports_another_and_the_rest_imports_none(path):
    name = module(path)
    shared = ("base", "registry", "presets", "two_streams")
    for other in ours(path):
        if other.startswith("methods.") and other.split(".")[1] not in shared:
            assert folder(name) == "methods", f"{name} imports the concrete method {other}"
            assert other.split(".")[1] == name.split(".")[1], f"{name} imports {other}"


def test_no_folder_and_no_file_grows_out_of_hand():
    lines = {path: len(path.read_text("utf-8").splitlines()) for path in FILES}
    assert {module(path): n for path, n in lines.items() if n > MAX_LINES} == {}
    sizes: Counter[str] = Counter()
    for path, n in lines.items():
        sizes[folder(module(path))] += n
    total = sum(sizes.values())
    assert {name: round(n / total, 3) for name, n in sizes.items() if n > MAX_SHARE * total} == {}


def test_a_class_or_function_name_is_defined_in_one_module():
    homes: dict[str, set[str]] = defaultdict(set)
    for path in FILES:
        for node in ast.parse(path.read_text("utf-8")).body:
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
                homes[node.name].add(module(path))
    doubled = {name: sorted(where) for name, where in homes.items() if len(where) > 1}
    assert {name: where for name, where in doubled.items() if name not in SHARED_NAMES} == {}


def test_optional_packages_are_imported_in_one_file_each():
    users: dict[str, set[str]] = {}
    for path in FILES:
        for package in {name.split(".")[0] for name in imports(path)}:
            users.setdefault(package, set()).add(module(path))
    assert {
        package: files for package, files in users.items() if package in ONE_FILE and len(files) > 1
    } == {}
    assert not NEVER & users.keys()


def test_importing_textmask_or_its_help_does_not_import_torch():
    code = "import sys, textmask, textmask.cli.app; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_the_public_names_exist():
    import textmask

    assert sorted(textmask.__all__) == dir(textmask)
    assert all(getattr(textmask, name) is not None for name in textmask.__all__)
    with pytest.raises(AttributeError, match="no attribute 'nope'"):
        _ = textmask.nope
