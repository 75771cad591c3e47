"""What ARCHITECTURE.md promises about the shape of the code."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("move37", "agents", "sandbox", "evaluator", "memory", "prompts")


@pytest.mark.parametrize("package", PACKAGES)
def test_facades_hold_no_reexports(package: str) -> None:
    for path in (ROOT / package).rglob("__init__.py"):
        if path == ROOT / "move37" / "__init__.py":  # claims the names of its siblings; see its docstring
            continue
        body = ast.parse(path.read_text()).body
        assert len(body) <= 1, f"{path.relative_to(ROOT)} holds more than a docstring"
        if body:
            assert ast.get_docstring(ast.parse(path.read_text()))


@pytest.mark.parametrize("package", PACKAGES)
def test_every_module_says_what_it_is_for(package: str) -> None:
    silent = [
        str(path.relative_to(ROOT))
        for path in (ROOT / package).rglob("*.py")
        if path.read_text().strip() and not ast.get_docstring(ast.parse(path.read_text()))
    ]
    assert silent == []


def test_the_import_contracts_hold() -> None:
    done = subprocess.run(
        [sys.executable, "-c", "from importlinter.cli import lint_imports_command; lint_imports_command()"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_a_stranger_with_one_of_our_names_is_a_clear_error(tmp_path: Path) -> None:
    (tmp_path / "agents").mkdir()
    (tmp_path / "agents" / "__init__.py").write_text("")
    code = (
        f"import sys; sys.path.insert(0, {str(tmp_path)!r}); import agents; "
        f"sys.path.append({str(ROOT)!r}); import move37"
    )
    done = subprocess.run([sys.executable, "-I", "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode != 0
    assert "the package name 'agents' resolves to" in done.stderr
    assert "virtual environment of its own" in done.stderr


def test_documentation_links_lead_somewhere() -> None:
    import re

    pages = [ROOT / "README.md", ROOT / "ARCHITECTURE.md", ROOT / "CHANGELOG.md", *(ROOT / "docs").rglob("*.md")]
    broken = []
    for page in pages:
        for target in re.findall(r"\]\(([^)#\s]+)", page.read_text()):
            if "://" not in target and not (page.parent / target).exists():
                broken.append(f"{page.relative_to(ROOT)} -> {target}")
    assert broken == []


def test_the_pages_that_must_stay_short_do() -> None:
    for name in ("README.md", "ARCHITECTURE.md"):
        text = (ROOT / name).read_text()
        assert len(text.splitlines()) <= 150
        assert "@@" not in text, "a hole was left"
