"""The compiled hot path: a build is used when it fits, hides no source, and its absence costs nothing but speed."""

from __future__ import annotations

import ast
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

import compiled
from tests.server.server import Server, run_main, wait_until

ROOT = Path(__file__).resolve().parents[1]
#: A build of a small package is mostly mypy reading the standard library's types; a crowded machine takes its time.
pytestmark = pytest.mark.timeout(300)

HOT = ("small/sums.py", "small/shapes/*.py")
FILES = {
    "pyproject.toml": "[tool.mypy]\nstrict = true\n",
    "small/__init__.py": "",
    "small/sizes.py": "from typing import Final\n\nFACTOR: Final = 10\n",
    "small/sums.py": "from small.sizes import FACTOR\n\n\ndef total(number: int) -> int:\n    return number * FACTOR\n",
    "small/shapes/__init__.py": "CORNERS = {'square': 4}\n",
}
#: Tests without sockets and processes, which run the modules of the table in their own process.
RULES = (
    "tests/formats",
    "tests/keys/test_rotation.py",
    "tests/proxy/test_deadlines.py",
    "tests/proxy/test_exchange.py",
    "tests/proxy/test_readers.py",
    "tests/proxy/test_renames.py",
    "tests/proxy/test_routing.py",
)
RUN = """
import sys
from pathlib import Path

root, tools, mode, hot = Path(sys.argv[1]), sys.argv[2], sys.argv[3], tuple(sys.argv[4:])
sys.path[:0] = [str(root), tools]
import compiled
{before}
outcome = compiled.install(mode, compiled.Project(root, hot))
import small.sums
import small.shapes

print(outcome)
print(small.sums.__file__)
print(small.shapes.__file__)
print(small.sums.total(4), small.shapes.CORNERS["square"])
"""


@dataclass(frozen=True)
class Run:
    outcome: str
    files: tuple[str, str]
    values: str

    @property
    def is_native(self) -> bool:
        return all(file.endswith(".so") for file in self.files)

    @property
    def is_python(self) -> bool:
        return all(file.endswith(".py") for file in self.files)


def lay_out(root: Path) -> Path:
    for name, text in FILES.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


def run(root: Path, mode: str = "auto", before: str = "") -> Run:
    """What a fresh process gets from the small package."""
    program = [sys.executable, "-B", "-c", RUN.format(before=before), str(root), str(ROOT), mode, *HOT]
    done = subprocess.run(program, cwd=root, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    outcome, first, second, values = done.stdout.splitlines()
    return Run(outcome, (first, second), values)


def start_build(root: Path) -> subprocess.Popen[str]:
    project = f"compiled.Project(pathlib.Path({str(root)!r}), {HOT})"
    program = f"import compiled, pathlib; print(compiled.build({project}))"
    return subprocess.Popen([sys.executable, "-c", program], cwd=ROOT, stdout=subprocess.PIPE, text=True)


def require_compiler() -> None:
    try:
        compiled.find_compiler()
    except compiled.Impossible as error:
        pytest.skip(str(error))


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[str]]:
    """The small package, built by two processes at once, and what each of them said of having built it."""
    require_compiler()
    root = lay_out(tmp_path_factory.mktemp("made"))
    builders = [start_build(root), start_build(root)]
    said = [builder.communicate(timeout=240)[0].strip() for builder in builders]
    assert [builder.returncode for builder in builders] == [0, 0]
    return root, said


@pytest.fixture
def small(made: tuple[Path, list[str]], tmp_path: Path) -> Path:
    """A built package of its own for each test."""
    return Path(shutil.copytree(made[0], tmp_path / "small"))


def builds(root: Path) -> list[Path]:
    return [path for path in compiled.Project(root).builds.iterdir() if path.is_dir()]


# -- builds -------------------------------------------------------------------------------------------


def test_two_builds_at_once_make_one(made: tuple[Path, list[str]]) -> None:
    root, said = made
    assert sorted(said) == ["False", "True"]
    assert len(builds(root)) == 1


def test_a_build_that_fits_is_not_made_again(small: Path) -> None:
    before = builds(small)
    assert compiled.build(compiled.Project(small, HOT)) is False
    assert builds(small) == before


def test_a_build_that_fails_says_why_and_leaves_nothing(tmp_path: Path) -> None:
    require_compiler()
    root = lay_out(tmp_path)
    (root / "small/sums.py").write_text("def total(number: int) -> int:\n    return str(number)\n")
    with pytest.raises(compiled.BuildError, match="Incompatible return value type"):
        compiled.build(compiled.Project(root, HOT))
    assert builds(root) == []
    assert run(root).is_python


def test_a_missing_module_of_the_table_is_an_error_and_no_smaller_build(tmp_path: Path) -> None:
    require_compiler()
    with pytest.raises(compiled.BuildError, match="small/products.py"):
        compiled.build(compiled.Project(lay_out(tmp_path), (*HOT, "small/products.py")))


@pytest.mark.parametrize("arguments", [["able"], []], ids=["asked", "building"])
def test_without_a_compiler_a_sentence_says_so(tmp_path: Path, arguments: list[str]) -> None:
    copy = copy_of_the_program(tmp_path)
    environ = {name: value for name, value in os.environ.items() if name != "CC"}
    done = subprocess.run(
        [sys.executable, str(copy / "compiled.py"), *arguments],
        env={**environ, "PATH": ""},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == compiled.IMPOSSIBLE
    assert done.stderr.count("\n") == 1
    assert "there is no C compiler" in done.stderr
    assert "interpreted" in done.stderr


def test_only_the_newest_builds_are_kept(tmp_path: Path) -> None:
    folder = compiled.Project(tmp_path, HOT).builds
    for number in range(5):
        manifest = folder / str(number) / compiled.MANIFEST
        manifest.parent.mkdir(parents=True)
        manifest.write_text("{}")
        os.utime(manifest, (number, number))
    (folder / ".building-broken-off").mkdir()
    compiled.prune(folder)
    assert sorted(path.name for path in folder.iterdir()) == ["2", "3", "4"]


# -- using them ---------------------------------------------------------------------------------------


def test_a_build_that_fits_is_used(small: Path) -> None:
    found = run(small)
    assert found.outcome == "hot path compiled"
    assert found.is_native
    assert found.values == "40 4"


def test_without_a_build_the_sources_run(tmp_path: Path) -> None:
    found = run(lay_out(tmp_path))
    assert found.outcome == "hot path interpreted: it is not compiled"
    assert found.is_python


def test_an_edited_source_is_never_hidden(small: Path) -> None:
    source = small / "small/sums.py"
    text = source.read_text()
    source.write_text(text.replace("number * FACTOR", "number * FACTOR + 1"))
    edited = run(small)
    assert edited.outcome == "hot path interpreted: the build does not fit: small/sums.py has changed"
    assert edited.is_python
    assert edited.values == "41 4"

    source.write_text(text)
    assert run(small).is_native


def test_an_edited_constant_of_a_module_that_is_not_compiled_counts_too(small: Path) -> None:
    (small / "small/sizes.py").write_text("from typing import Final\n\nFACTOR: Final = 20\n")
    found = run(small)
    assert found.is_python
    assert found.values == "80 4"


def test_a_further_module_that_the_table_covers_makes_a_build_unfit(small: Path) -> None:
    (small / "small/shapes/circle.py").write_text("CORNERS = 0\n")
    assert run(small).outcome == "hot path interpreted: the build does not fit: other modules are to be compiled"


def test_a_build_of_another_python_does_not_fit(small: Path) -> None:
    (manifest,) = compiled.Project(small).builds.glob(f"*/{compiled.MANIFEST}")
    manifest.write_text(manifest.read_text().replace('"python": "', '"python": "2.'))
    found = run(small)
    assert found.is_python
    assert "it is for Python 2." in found.outcome


def test_it_can_be_turned_off(small: Path) -> None:
    found = run(small, mode="off")
    assert found.outcome == "hot path interpreted: COMPILED=off"
    assert found.is_python


def test_what_was_imported_before_is_not_mixed_with_compiled_modules(small: Path) -> None:
    found = run(small, before="import small.shapes")
    assert found.outcome == "hot path interpreted: small.shapes was imported before"
    assert found.is_python


@pytest.mark.parametrize("damage", ["library", "manifest"])
def test_a_damaged_build_is_left_alone(small: Path, damage: str) -> None:
    pattern = "*__mypyc.*" if damage == "library" else compiled.MANIFEST
    (file,) = compiled.Project(small).builds.glob(f"*/{pattern}")
    file.write_bytes(b"not what it was")
    found = run(small)
    assert found.is_python
    assert "cannot be" in found.outcome


# -- the program --------------------------------------------------------------------------------------


def copy_of_the_program(folder: Path) -> Path:
    """Without a build."""
    copy = folder / "copy"
    shutil.copytree(ROOT / "app", copy / "app", ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("main.py", *compiled.TOOLS):
        shutil.copy(ROOT / name, copy)
    return copy


@pytest.fixture(scope="module")
def real_build() -> None:
    """A build of the program as it is; `make test` has made it before."""
    try:
        compiled.build()
    except compiled.Impossible as error:
        pytest.skip(str(error))


def test_every_line_of_the_table_is_a_module_of_the_program() -> None:
    assert all(list(ROOT.glob(pattern)) for pattern in compiled.HOT)


def test_nothing_of_the_program_is_imported_before_the_build_is_installed() -> None:
    imports = [
        (node.lineno, getattr(node, "module", None) or node.names[0].name)
        for node in ast.walk(ast.parse((ROOT / "compiled.py").read_text()))
        if isinstance(node, ast.Import | ast.ImportFrom)
    ]
    assert imports
    assert not [name for _, name in imports if name.split(".")[0] == "app"]

    body = ast.parse((ROOT / "main.py").read_text()).body
    install = next(
        number for number, node in enumerate(body) if "HOT_PATH" in ast.dump(node) and hasattr(node, "value")
    )
    assert not [
        node for node in body[:install] if isinstance(node, ast.ImportFrom) and str(node.module).startswith("app")
    ]


@pytest.mark.parametrize("place", ["environment", ".env"])
def test_a_required_build_that_is_missing_stops_the_start(tmp_path: Path, place: str) -> None:
    copy = copy_of_the_program(tmp_path)
    (tmp_path / ".env").write_text("COMPILED=required\n" if place == ".env" else "")
    ended = run_main(tmp_path, {"COMPILED": "Required"} if place == "environment" else {}, main=copy / "main.py")
    assert ended.returncode == 2
    assert "COMPILED: is required, but it is not compiled." in ended.stderr
    assert "make compile" in ended.stderr


@pytest.mark.usefixtures("real_build")
@pytest.mark.parametrize("driver", ["threads", "loop"])
def test_the_server_runs_compiled_and_says_so_once(tmp_path: Path, driver: str) -> None:
    with Server(tmp_path, environ={"COMPILED": "required", "DRIVER": driver}) as server:
        assert wait_until(lambda: "hot path compiled" in server.log())
        assert server.log().count("hot path") == 1
        loaded = Path(f"/proc/{server.workers[0]}/maps").read_text()
    assert "__mypyc" in loaded


@pytest.mark.usefixtures("real_build")
def test_the_server_runs_interpreted_where_that_is_asked_for(tmp_path: Path) -> None:
    with Server(tmp_path, environ={"COMPILED": "off"}) as server:
        assert wait_until(lambda: "hot path interpreted: COMPILED=off" in server.log())
        assert "__mypyc" not in Path(f"/proc/{server.workers[0]}/maps").read_text()


@pytest.mark.usefixtures("real_build")
def test_any_other_wsgi_server_gets_the_compiled_program_too(tmp_path: Path) -> None:
    program = f"import sys; sys.path.insert(0, {str(ROOT)!r}); import main, app.proxy.exchange as x; print(x.__file__)"
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True, timeout=60, check=True
    )
    assert done.stdout.strip().endswith(".so")


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.usefixtures("real_build")
def test_the_pure_rules_hold_compiled_too(tmp_path: Path) -> None:
    """Compiled code checks annotations: one that is wrong is a TypeError here, and nothing to the interpreter."""
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-n", "0", f"--basetemp={tmp_path / 'base'}", *RULES],
        cwd=ROOT,
        env={**os.environ, "TEST_COMPILED": "1"},
        capture_output=True,
        text=True,
        timeout=580,
        check=False,
    )
    assert done.returncode == 0, done.stdout
    assert " passed" in done.stdout
