"""The project's frame: layering, packaging, house rules and what the command line costs to start."""

import ast
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

import daemon.errors as daemon_errors
import patchcore_engine.errors as engine_errors
from daemon import client
from daemon.errors import DaemonError
from patchcore_engine.errors import PatchcoreError

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ("patchcore_engine", "daemon")
LONGEST_FILE = 400
HEAVY = {"mindspore", "faiss", "cv2", "sklearn", "scipy", "matplotlib"}


def sources(package: str) -> list[Path]:
    return sorted((ROOT / package).rglob("*.py"))


def module_name(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imported_modules(nodes: Iterator[ast.AST]) -> Iterator[str]:
    for node in nodes:
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module is not None:
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def imports_at_load(path: Path) -> set[str]:
    """Modules that are imported when the file is, and not only inside a function or for type checking."""
    tree = ast.parse(path.read_text(encoding="utf-8"))

    def walk(body: list[ast.stmt]) -> Iterator[ast.AST]:
        for node in body:
            if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
                continue
            if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
                continue
            yield node
            for field in ("body", "orelse", "finalbody"):
                yield from walk(getattr(node, field, []))

    return set(imported_modules(walk(tree.body)))


def test_the_engine_never_imports_the_daemon() -> None:
    for path in sources("patchcore_engine"):
        names = imported_modules(ast.walk(ast.parse(path.read_text(encoding="utf-8"))))
        assert not [name for name in names if name.split(".")[0] in {"daemon", "zmq"}], path


def test_no_module_imports_itself_through_others() -> None:
    modules = {module_name(path): path for package in PACKAGES for path in sources(package)}
    graph = {name: imports_at_load(path) & set(modules) - {name} for name, path in modules.items()}
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        pytest.fail(f"modules import each other in a circle: {' -> '.join(error.args[1])}")


def test_every_package_and_data_file_is_in_the_packaging_list() -> None:
    tool = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["setuptools"]
    folders = {module_name(path) for package in PACKAGES for path in sources(package) if path.name == "__init__.py"}
    assert set(tool["packages"]) == folders
    for package in PACKAGES:
        data = {path for path in (ROOT / package).rglob("*") if path.is_file() and path.suffix not in (".py", ".pyc")}
        packaged = {path for pattern in tool["package-data"][package] for path in (ROOT / package).glob(pattern)}
        assert data <= packaged


def test_no_source_file_is_long() -> None:
    paths = [path for folder in (*PACKAGES, "tests") for path in sources(folder)]
    lengths = {path: len(path.read_text(encoding="utf-8").splitlines()) for path in paths}
    assert not {path: length for path, length in lengths.items() if length > LONGEST_FILE}


def test_nothing_is_pickled_and_nothing_is_asserted_outside_tests() -> None:
    for package in PACKAGES:
        for path in sources(package):
            tree = ast.parse(path.read_text(encoding="utf-8"))
            assert not any(isinstance(node, ast.Assert) for node in ast.walk(tree)), path
            names = {name.split(".")[0] for name in imported_modules(ast.walk(tree))}
            assert not names & {"pickle", "marshal", "shelve", "dill", "cloudpickle", "joblib", "torch"}, path


def test_everything_is_caught_at_one_place_only() -> None:
    places = [
        f"{path.relative_to(ROOT)}:{node.lineno}"
        for package in PACKAGES
        for path in sources(package)
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.ExceptHandler)
        and (node.type is None or {"Exception", "BaseException"} & set(re.findall(r"\w+", ast.unparse(node.type))))
        and not any(isinstance(inner, ast.Raise) and inner.exc is None for inner in ast.walk(node))
    ]
    assert len(places) <= 1, places


def locked(name: str) -> dict[str, str]:
    text = (ROOT / "requirements" / name).read_text(encoding="utf-8")
    return {match[1]: match[2] for match in re.finditer(r"^([a-z0-9.-]+)==([^ ;\\]+)", text, re.MULTILINE)}


def normal(requirement: str) -> str:
    return re.sub(r"[-_.]+", "-", re.split(r"[\[<>=~! ;]", requirement)[0]).lower()


def test_the_lock_holds_every_requirement_and_names_no_index() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    runtime, development = locked("runtime.lock"), locked("dev.lock")
    extras = project["optional-dependencies"]
    assert {normal(name) for name in (*project["dependencies"], *extras["lite0"])} <= set(runtime)
    assert {normal(name) for name in extras["dev"]} - {"patchline"} <= set(development)
    assert runtime.items() <= development.items()
    for name in ("runtime.lock", "dev.lock", "audit.lock"):
        text = (ROOT / "requirements" / name).read_text(encoding="utf-8")
        assert "://" not in text
        assert "--index" not in text


def run_python(program: str, *words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", program, *words], cwd=ROOT, capture_output=True, text=True, check=False
    )


def test_the_clients_export_what_a_camera_and_a_controller_need_and_load_no_engine() -> None:
    exported = {"FrameSender", "PushCamera", "VerdictStream", "Verdict", "Outcome", "Reason"}
    assert exported <= set(client.__all__)
    for name in client.__all__:
        assert getattr(client, name) is not None
    done = run_python(f"import sys, daemon.client; print({HEAVY!r} & set(sys.modules) or 'none')")
    assert done.stdout == "none\n", done.stderr


def test_every_error_descends_from_its_package_s_base_and_stands_in_the_tree() -> None:
    for module, base in ((engine_errors, PatchcoreError), (daemon_errors, DaemonError)):
        classes = [value for value in vars(module).values() if isinstance(value, type) and issubclass(value, Exception)]
        assert all(issubclass(value, base) for value in classes)
        drawn = set(re.findall(r"\b\w+Error\b", module.__doc__ or ""))
        assert drawn == {value.__name__ for value in classes}


def test_the_help_is_printed_without_loading_the_engine() -> None:
    program = f"""
import sys
from daemon import cli
sys.argv = ["patchline", "--help"]
try:
    cli.main()
except SystemExit as stop:
    assert not stop.code, stop.code
loaded = {HEAVY!r} & set(sys.modules)
sys.exit(f"loaded: {{loaded}}" if loaded else 0)
"""
    done = run_python(program)
    assert done.returncode == 0, done.stderr
    assert "serve" in done.stdout


def test_mindspore_is_given_an_openmp_runtime_only_where_the_system_has_none(tmp_path: Path) -> None:
    script = ROOT / "requirements" / "link_libgomp.py"
    copy = tmp_path / "scikit_learn.libs" / "libgomp-0123abcd.so.1.0.0"
    library = tmp_path / "mindspore" / "lib"
    library.mkdir(parents=True)
    program = f"""
import ctypes, runpy, sys, sysconfig
sysconfig.get_path = lambda name: {str(tmp_path)!r}
def load(name):
    if "absent" in sys.argv:
        raise OSError(name)
ctypes.CDLL = load
runpy.run_path({str(script)!r}, run_name="__main__")
"""
    assert run_python(program).returncode == 0
    assert not list(library.iterdir())
    done = run_python(program, "absent")
    assert done.returncode == 1
    assert "apt-get install libgomp1" in done.stderr
    copy.parent.mkdir()
    copy.touch()
    assert run_python(program, "absent").returncode == 0
    assert run_python(program, "absent").returncode == 0
    assert (library / "libgomp.so.1").resolve() == copy
