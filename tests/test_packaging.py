"""The four folders become one package: complete in the wheel, and with imports that point one way."""

import ast
import fnmatch
import os
import shutil
import subprocess
import sys
import tomllib
import venv
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

CHECKOUT = Path(__file__).resolve().parent.parent
FOLDERS = ("parsers", "policy", "proxy", "redirect")
IO_MODULES = {"asyncio", "socket", "_socket", "time", "uvloop", "select", "selectors", "threading", "subprocess"}
PROJECT = tomllib.loads((CHECKOUT / "pyproject.toml").read_text())
SETUPTOOLS = PROJECT["tool"]["setuptools"]
# What the wheel carries of each folder.
OWN_FILES = ("*.py", "*.typed", "*.c", "*.h", "*.o", "Makefile", "*.md")


def modules(folder: str, *, root: Path = CHECKOUT) -> list[Path]:
    return sorted((root / folder).rglob("*.py"))


def imported(path: Path) -> Iterator[tuple[str, int]]:
    """Every module that the file imports, at any depth of the code, with its line."""
    for node in ast.walk(ast.parse(path.read_bytes(), str(path))):
        if isinstance(node, ast.Import):
            yield from ((alias.name, node.lineno) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = "." * node.level + (node.module or "")
            yield base, node.lineno
            yield from ((f"{base}.{alias.name}", node.lineno) for alias in node.names)


def offences(folder: str, *, forbidden: set[str]) -> list[str]:
    """Imports of a forbidden module or of anything inside it."""
    return [
        f"{path.relative_to(CHECKOUT)}:{line} imports {name}"
        for path in modules(folder)
        for name, line in imported(path)
        if any(name == other or name.startswith(other + ".") for other in forbidden)
    ]


def test_every_folder_with_an_init_is_in_the_package_list() -> None:
    on_disk = {
        "racecar." + ".".join(path.parent.relative_to(CHECKOUT).parts)
        for folder in FOLDERS
        for path in (CHECKOUT / folder).rglob("__init__.py")
    }
    assert set(SETUPTOOLS["packages"]) == on_disk


def test_every_module_lies_in_a_package() -> None:
    for folder in FOLDERS:
        for path in modules(folder):
            assert (path.parent / "__init__.py").exists(), path


def test_the_namespace_has_no_init_of_its_own() -> None:
    assert not (CHECKOUT / "__init__.py").exists()
    assert set(SETUPTOOLS["package-dir"]) == {f"racecar.{folder}" for folder in FOLDERS}


def test_every_source_that_is_not_python_is_package_data() -> None:
    patterns = SETUPTOOLS["package-data"]
    for folder in FOLDERS:
        wanted = patterns.get("*", []) + patterns.get(f"racecar.{folder}", [])
        for path in sorted((CHECKOUT / folder).rglob("*")):
            name = str(path.relative_to(CHECKOUT / folder))
            if path.is_dir() or path.suffix in (".py", ".pyc", ".tmp", ".new") or "__pycache__" in path.parts:
                continue
            assert any(fnmatch.fnmatch(name, pattern) for pattern in wanted), f"{folder}/{name}"


@pytest.mark.parametrize("folder", ["parsers", "policy"])
def test_parsers_and_policy_know_no_proxy_and_no_input_or_output(folder: str) -> None:
    assert offences(folder, forbidden={"racecar.proxy", "racecar.redirect"} | IO_MODULES) == []


def test_parsers_know_no_policy() -> None:
    """But for the numbered list of reasons, which is the project's own vocabulary."""
    found = offences("parsers", forbidden={"racecar.policy"})
    assert [offence for offence in found if "racecar.policy.reasons" not in offence] == []


def test_redirect_knows_no_proxy() -> None:
    assert offences("redirect", forbidden={"racecar.proxy", "racecar.parsers"}) == []


def test_imports_are_absolute_and_name_racecar() -> None:
    for folder in (*FOLDERS, "tests", "benchmarks"):
        assert offences(folder, forbidden=set(FOLDERS)) == []
        for path in modules(folder):
            assert [name for name, _ in imported(path) if name.startswith(".")] == [], path


def test_the_import_rule_sees_every_form(tmp_path: Path) -> None:
    module = tmp_path / "m.py"
    module.write_text("import a.b\ndef f():\n    from c import d\nfrom . import e\n")
    assert sorted(name for name, _ in imported(module)) == [".", "..e", "a.b", "c", "c.d"]


def test_bpf_programs_name_both_licences() -> None:
    for path in sorted((CHECKOUT / "redirect" / "bpf").glob("*.[ch]")):
        assert "SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause" in path.read_text().splitlines()[0], path


# --- The wheel -------------------------------------------------------------------------------------------------------


def copy_of_the_sources(target: Path) -> Path:
    """The project as a release would have it: sources only, so that the build compiles everything anew."""
    target.mkdir()
    for name in ("pyproject.toml", "setup.py", "README.md", "LICENSE", "MANIFEST.in"):
        shutil.copy(CHECKOUT / name, target)
    built = shutil.ignore_patterns("__pycache__", "*.bpf.o", "*.tmp", "racecar-launcher*")
    for folder in FOLDERS:
        shutil.copytree(CHECKOUT / folder, target / folder, ignore=built)
    return target


@pytest.fixture(scope="session")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    for command in ("clang", "make", "gcc"):
        if shutil.which(command) is None:
            pytest.skip(f"needs {command}")
    place = tmp_path_factory.mktemp("wheel")
    sources = copy_of_the_sources(place / "sources")
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(place), str(sources)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    (built,) = place.glob("*.whl")
    return built


@pytest.fixture(scope="session")
def fresh_python(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An interpreter that has the wheel, and the dependencies by path alone."""
    place = tmp_path_factory.mktemp("venv")
    venv.create(place, with_pip=False, system_site_packages=False, symlinks=True)
    (site,) = place.glob("lib/python3*/site-packages")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(site)
    # A path added by a .pth file is searched, but its own .pth files (the editable install) are not read.
    dependencies = {str(Path(sys.modules["pytest"].__file__ or "").resolve().parent.parent)}
    (site / "dependencies.pth").write_text("\n".join(sorted(dependencies)) + "\n")
    return place / "bin" / "python"


@pytest.mark.slow
def test_the_wheel_belongs_to_one_platform(wheel: Path) -> None:
    assert not wheel.name.endswith("-none-any.whl")


@pytest.mark.slow
def test_the_wheel_holds_every_file_that_the_sources_hold(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        held = set(archive.namelist())
    sources = wheel.parent / "sources"
    for folder in FOLDERS:
        for path in sorted((sources / folder).rglob("*")):
            if path.is_file() and any(path.match(name) for name in OWN_FILES):
                assert f"racecar/{path.relative_to(sources)}" in held


@pytest.mark.slow
def test_the_wheel_holds_what_the_build_compiled(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        for source in (CHECKOUT / "redirect" / "bpf").glob("*.bpf.c"):
            compiled = archive.read(f"racecar/redirect/bpf/{source.stem}.o")
            assert compiled.startswith(b"\x7fELF"), source
        launcher = archive.getinfo("racecar/redirect/launcher/racecar-launcher")
        assert launcher.external_attr >> 16 & 0o111, "the launcher lost its run bit"
        licences = [name for name in archive.namelist() if "/licenses/" in name]
    assert any(name.endswith("/LICENSE") for name in licences)
    assert any(name.endswith("LICENSES.md") for name in licences)


@pytest.mark.slow
def test_the_wheel_imports_from_a_fresh_environment(wheel: Path, fresh_python: Path, tmp_path: Path) -> None:
    sources = wheel.parent / "sources"
    names = [
        "racecar." + ".".join(path.relative_to(sources).with_suffix("").parts).removesuffix(".__init__")
        for folder in FOLDERS
        for path in modules(folder, root=sources)
    ]
    code = (
        "import importlib, importlib.resources, sys\n"
        "for name in sys.argv[1:]:\n"
        "    print(importlib.import_module(name).__file__)\n"
        "assert importlib.resources.files('racecar.redirect').joinpath('bpf/connect.bpf.o').is_file()\n"
    )
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    done = subprocess.run(
        [fresh_python, "-W", "error", "-c", code, *names],
        capture_output=True,
        text=True,
        check=False,
        cwd=tmp_path,
        env=environment,
    )
    assert done.returncode == 0, done.stderr
    site = str(fresh_python.parent.parent)
    assert [file for file in done.stdout.split() if not file.startswith(site)] == []
