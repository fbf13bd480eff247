"""Imports point downwards only (the floors of CONTRIBUTING.md), and optional packages stay in one file each."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1] / "src" / "textmask"
FLOORS = {
    "types": 0,
    "errors": 0,
    "config": 0,
    "weights": 0,
    "compiled": 0,
    "method": 2,
    "methods": 2,
    "run": 3,
    "cli": 4,
    "cli_options": 4,
    "cli_dicom": 4,
    "cli_export": 4,
    "cli_grid": 4,
    "cli_predict": 4,
    "cli_serve": 4,
    "cli_study": 4,
    "cli_variants": 4,
}
SAME_FLOOR = {("data", "io"), ("data", "text"), ("metrics.agreement", "text")}
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
    "monai",
}
NEVER = {"torchvision", "timm", "medpy", "torchmetrics", "pickle"}
FILES = sorted(ROOT.rglob("*.py"))


def module(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


def floor(name: str) -> int:
    part = name.split(".")[0]
    return FLOORS.get(part, 4 if part in ("", "__init__", "__main__", "serve") else 1)


def imports(path: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {f"{node.module}.{alias.name}" for alias in node.names} | {node.module}
    return found


def ours(path: Path) -> set[str]:
    return {name.removeprefix("textmask.") for name in imports(path) if name.startswith("textmask.")}


@pytest.mark.parametrize("path", FILES, ids=module)
def test_imports_point_downwards(path):
    name = module(path)
    for other in ours(path):
        if floor(name) == 4:
            continue
        a, b = name.split(".")[0], other.split(".")[0]
        below = floor(other) < floor(name) or floor(other) == 0
        allowed = a == b or below or bool({(a, b), (name, b)} & SAME_FLOOR)
        allowed = allowed or (a == "methods" and b == "method") or (name == "types" and b == "text")
        if name == "method":  # finds the folder of methods, imports none of them by name
            allowed = allowed or other == "methods"
        assert allowed, f"{name} (floor {floor(name)}) imports {other} (floor {floor(other)})"


@pytest.mark.parametrize("path", FILES, ids=module)
def test_no_method_imports_another_and_run_imports_none(path):
    name = module(path)
    for other in ours(path):
        if other.startswith("methods."):
            assert name.split(".")[0] == "methods", f"{name} imports the concrete method {other}"
            assert other.split(".")[1] == name.split(".")[1], f"{name} imports {other}"


def test_optional_packages_are_imported_in_one_file_each():
    users: dict[str, set[str]] = {}
    for path in FILES:
        for package in {name.split(".")[0] for name in imports(path)}:
            users.setdefault(package, set()).add(module(path))
    assert {package: files for package, files in users.items() if package in ONE_FILE and len(files) > 1} == {}
    assert not NEVER & users.keys()


def test_importing_textmask_or_its_help_does_not_import_torch():
    code = "import sys, textmask, textmask.cli; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_the_public_names_exist():
    import textmask

    assert sorted(textmask.__all__) == dir(textmask)
    assert all(getattr(textmask, name) is not None for name in textmask.__all__)
    with pytest.raises(AttributeError, match="no attribute 'nope'"):
        _ = textmask.nope
