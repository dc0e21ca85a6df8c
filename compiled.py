"""
The hot path as machine code: mypyc translates the modules of `HOT` into C, and `install` makes Python load the result.

    python compiled.py          build what is not built yet: 0 = it is there, 1 = it failed, 3 = it cannot be done here
    python compiled.py fits     0 = there is a build of these very sources
    python compiled.py able     0 = there is a C compiler, and Python's headers; 3 = not

The Python sources stay what counts: a build is used only while all of them are what it was made of. It lies apart
from them in `.make/compiled/<Python's tag>/<digest>/`, so that it can never hide an edited file. This module imports
nothing of `app`, because it has to act before that is imported.
"""

from __future__ import annotations

import ast
import fcntl
import hashlib
import importlib
import importlib.util
import json
import os
import platform
import shlex
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.machinery import ExtensionFileLoader, ModuleSpec
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

#: What every proxied request runs through. Whole class hierarchies only: an interpreted class cannot inherit from a
#: compiled one.
HOT = (
    "app/booking.py",
    "app/formats/*.py",
    "app/keys/base.py",
    "app/keys/live.py",
    "app/keys/manager.py",
    "app/keys/ring.py",
    "app/keys/rotation.py",
    "app/keys/states.py",
    "app/keys/verdict_effects.py",
    "app/proxy/adapters.py",
    "app/proxy/admission.py",
    "app/proxy/answers.py",
    "app/proxy/attempts.py",
    "app/proxy/book.py",
    "app/proxy/cors.py",
    "app/proxy/deadlines.py",
    "app/proxy/events.py",
    "app/proxy/exchange.py",
    "app/proxy/headers.py",
    "app/proxy/http1.py",
    "app/proxy/incoming.py",
    "app/proxy/invariants.py",
    "app/proxy/link.py",
    "app/proxy/outlet.py",
    "app/proxy/passing.py",
    "app/proxy/readers.py",
    "app/proxy/routing.py",
    "app/proxy/shortcut.py",
    "app/records.py",
    "app/redaction.py",
    "app/server/answering.py",
    "app/server/body_wait.py",
    "app/server/connection.py",
    "app/server/express.py",
    "app/server/flushing.py",
    "app/server/framing.py",
    "app/server/gathering.py",
    "app/server/handed.py",
    "app/server/idle.py",
    "app/server/loop.py",
    "app/server/outgoing.py",
    "app/server/ride.py",
    "app/server/stream_ride.py",
    "app/server/relay.py",
    "app/server/requests.py",
    "app/shapes.py",
)
#: What decides the result beside the modules and what they import.
TOOLS = ("compiled.py", "pyproject.toml", "requirements-build.txt")
#: For `mypycify`. One C file for each module lets the C compiler use every core.
OPTIONS: Mapping[str, Any] = {"opt_level": "2", "debug_level": "0", "multi_file": True}
#: mypyc makes warnings errors; those of a compiler that it does not know yet are no reason to go without.
COMPILER_OPTIONS = ("-w", "-Wno-error")
COMPILERS = ("cc", "gcc", "clang")
MODES = ("auto", "off", "required")

MANIFEST = "manifest.json"
#: Builds kept for each Python, so that going back to other sources costs nothing.
KEPT_BUILDS = 3
BUILD_LIMIT_S = 1800.0
IMPOSSIBLE = 3


class BuildError(Exception):
    """A sentence: why there is no build."""

    status = 1


class Impossible(BuildError):
    """Not on this machine, as it is."""

    status = IMPOSSIBLE


@dataclass(frozen=True, slots=True)
class Project:
    """
    What is compiled.

    root -- the folder that the packages lie in
    hot  -- the modules, as paths below `root` with wildcards
    """

    root: Path = Path(__file__).resolve().parent
    hot: tuple[str, ...] = HOT

    @property
    def builds(self) -> Path:
        """The folder of this Python's builds."""
        return self.root / ".make" / "compiled" / str(sysconfig.get_config_var("SOABI"))


@dataclass(frozen=True, slots=True)
class Outcome:
    """What `install` did; `reason` says why not."""

    compiled: bool
    reason: str = ""

    def __str__(self) -> str:
        return "hot path compiled" if self.compiled else f"hot path interpreted: {self.reason}"


@dataclass(frozen=True, slots=True)
class _Build:
    """A build that fits. `files` has the extension of each module, mypyc's own library of them included."""

    files: Mapping[str, Path]
    library: str


# -- using a build ------------------------------------------------------------------------------------


def install(mode: str = "auto", project: Project | None = None) -> Outcome:
    """Load the modules of `HOT` from the build of their sources from now on, where there is one."""
    project = project or Project()
    if mode == "off":
        return Outcome(False, "COMPILED=off")
    if loaded := sys.modules.keys() & {_module_name(path) for path in _hot_paths(project)}:
        return Outcome(False, f"{min(loaded)} was imported before")
    try:
        build = _fitting(project)
    except BuildError as error:
        return Outcome(False, str(error))
    finder = _Finder(build.files, project.root)
    sys.meta_path.insert(0, finder)
    try:
        importlib.import_module(build.library)
    except ImportError as error:
        sys.meta_path.remove(finder)
        return Outcome(False, f"the build cannot be loaded: {error}")
    return Outcome(True)


class _Finder:
    """Finds the modules that have an extension; all others are somebody else's."""

    def __init__(self, files: Mapping[str, Path], root: Path) -> None:
        self._files = files
        self._root = root

    def find_spec(self, name: str, _path: Sequence[str] | None = None, _target: Any = None) -> ModuleSpec | None:
        file = self._files.get(name)
        if file is None:
            return None
        loader = ExtensionFileLoader(name, str(file))
        # The modules of a compiled package that are not compiled lie where its sources are.
        folder = [str(self._root.joinpath(*name.split(".")))] if loader.is_package(name) else None
        return importlib.util.spec_from_file_location(name, file, loader=loader, submodule_search_locations=folder)


def _fitting(project: Project) -> _Build:
    """The build of these very sources. Raises BuildError."""
    reason = "it is not compiled"
    for manifest in sorted(project.builds.glob(f"*/{MANIFEST}")):
        try:
            made = json.loads(manifest.read_bytes())
            difference = _difference(made, project)
            if not difference:
                files = {name: manifest.parent / file for name, file in made["files"].items()}
                return _Build(files, made["library"])
        except (OSError, ValueError, KeyError):
            difference = f"{manifest} cannot be read"
        reason = f"the build does not fit: {difference}"
    raise BuildError(reason)


def _difference(made: Mapping[str, Any], project: Project) -> str:
    """What is not as it was when the build was made; empty where all is."""
    if made["python"] != platform.python_version():
        return f"it is for Python {made['python']}"
    if made["hot"] != _hot_paths(project):
        return "other modules are to be compiled"
    changed = [path for path, digest in made["sources"].items() if _digest(project.root / path) != digest]
    return f"{min(changed)} has changed" if changed else ""


def _digest(path: Path) -> str:
    """SHA-256 of a file; empty where there is none."""
    try:
        return hashlib.sha256(path.read_bytes()).hexdigest()
    except OSError:
        return ""


def _hot_paths(project: Project) -> list[str]:
    found = {path.relative_to(project.root).as_posix() for each in project.hot for path in project.root.glob(each)}
    return sorted(found)


def _module_name(path: str) -> str:
    return path.removesuffix(".py").removesuffix("/__init__").replace("/", ".")


# -- making a build -----------------------------------------------------------------------------------


def build(project: Project | None = None) -> bool:
    """
    Make the build of these sources; False where there was one already. Several at once are one.

    Raises Impossible without a C compiler, Python's headers, mypyc or setuptools, and BuildError when it fails.
    """
    project = project or Project()
    if fits(project):
        return False
    compiler = find_compiler()
    missing = [name for name in ("mypyc", "setuptools") if importlib.util.find_spec(name) is None]
    if missing:
        raise Impossible(f"{' and '.join(missing)} is not installed; requirements-build.txt has it")
    with _lock(project.builds):
        if fits(project):
            return False
        with tempfile.TemporaryDirectory(prefix=".building-", dir=project.builds) as folder:
            _make(project, Path(folder), compiler)
        prune(project.builds)
    return True


def fits(project: Project | None = None) -> bool:
    """Whether there is a build of these very sources."""
    try:
        _fitting(project or Project())
    except BuildError:
        return False
    return True


def find_compiler() -> str:
    """The C compiler. Raises Impossible where it or Python's headers are missing."""
    asked = os.environ.get("CC") or str(sysconfig.get_config_var("CC") or "")
    for command in (asked, *COMPILERS):
        if command and shutil.which(shlex.split(command)[0]):
            break
    else:
        raise Impossible("there is no C compiler (on Debian and Ubuntu: apt-get install gcc libc6-dev)")
    if not Path(sysconfig.get_path("include"), "Python.h").exists():
        raise Impossible("Python's headers are missing (on Debian and Ubuntu: apt-get install python3-dev)")
    return command


def _make(project: Project, folder: Path, compiler: str) -> None:
    """Compile in `folder`, and rename the result to its place only when all of it is there."""
    hot = _hot_paths(project)
    if lost := [pattern for pattern in project.hot if not list(project.root.glob(pattern))]:
        raise BuildError(f"there is no module {lost[0]}")
    # Read first: a source that is edited meanwhile makes a build that does not fit, never one that seems to.
    sources = {path: _digest(project.root / path) for path in sorted({*_reached(project.root, hot), *TOOLS})}
    result = folder / "result"
    _translate_apart(project.root, folder, hot, compiler)
    files = _extensions(result)
    library = next(name for name in files if name.endswith("__mypyc"))
    manifest = {
        "python": platform.python_version(),
        "mypy": _mypy_version(),
        "options": {**OPTIONS, "compiler": COMPILER_OPTIONS},
        "hot": hot,
        "sources": sources,
        "library": library,
        "files": files,
    }
    text = json.dumps(manifest, indent=1)
    (result / MANIFEST).write_text(text, encoding="utf-8")
    place = project.builds / hashlib.sha256(text.encode()).hexdigest()[:16]
    shutil.rmtree(place, ignore_errors=True)  # one that does not fit although it was made of the same is damaged
    result.rename(place)


def _translate_apart(root: Path, folder: Path, hot: Sequence[str], compiler: str) -> None:
    """`_translate` in a process of its own: mypyc wants the project's root as its folder, and ends the process."""
    try:
        subprocess.run(
            [sys.executable, str(Path(__file__).resolve()), "translate", str(folder), *hot],
            cwd=root,
            env={**os.environ, "CC": compiler},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            timeout=BUILD_LIMIT_S,
            check=True,
        )
    except subprocess.CalledProcessError as error:
        raise BuildError(f"mypyc failed.\n{error.stdout.strip()}") from None
    except subprocess.TimeoutExpired:
        raise BuildError(f"mypyc was not done after {BUILD_LIMIT_S:.0f} s") from None


def _extensions(result: Path) -> dict[str, str]:
    """Module -> its extension, below the folder."""
    suffix = str(sysconfig.get_config_var("EXT_SUFFIX"))
    paths = sorted(path.relative_to(result).as_posix() for path in result.rglob(f"*{suffix}"))
    return {_module_name(path.removesuffix(suffix) + ".py"): path for path in paths}


def _reached(root: Path, hot: Sequence[str]) -> set[str]:
    """
    The modules and all that they import, directly and indirectly: types and constants of those are built in.
    A package counts only where a name is taken from the package itself.
    """
    found: set[str] = set()
    waiting = list(hot)
    while waiting:
        path = waiting.pop()
        if path not in found:
            found.add(path)
            names = _imported(ast.parse((root / path).read_bytes()), path)
            waiting += [source for name in names if (source := _source(root, name))]
    return found


def _imported(tree: ast.Module, path: str) -> Iterator[str]:
    """Every name that might be an imported module, in functions and for type checkers too."""
    package = path.split("/")[:-1]
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            module = ".".join([*base, *([node.module] if node.module else [])])
            yield from (f"{module}.{alias.name}" for alias in node.names)


def _source(root: Path, name: str) -> str:
    """The file of the module of this name, or of that which has a thing of this name; empty where there is none."""
    for candidate in (name, name.rpartition(".")[0]):
        parts = candidate.split(".")
        for path in ("/".join(parts) + ".py", "/".join([*parts, "__init__.py"])):
            if candidate and (root / path).is_file():
                return path
    return ""


def _mypy_version() -> str:
    try:
        return version("mypy")
    except PackageNotFoundError:
        return ""


@contextmanager
def _lock(folder: Path) -> Iterator[None]:
    """One at a time; the system takes the lock from a process that dies."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def prune(folder: Path) -> None:
    """Only the newest builds stay, and nothing of builds that were broken off."""
    made = sorted(folder.glob(f"*/{MANIFEST}"), key=lambda path: path.stat().st_mtime)
    for stale in (*(path.parent for path in made[:-KEPT_BUILDS]), *folder.glob(".building-*")):
        shutil.rmtree(stale, ignore_errors=True)


def _translate(folder: Path, paths: Sequence[str]) -> None:
    """Python to C to extensions in `folder`/result, in the root of the project."""
    # Without these packages the program runs too, only not here.
    setuptools = importlib.import_module("setuptools")
    build_ext = importlib.import_module("setuptools.command.build_ext").build_ext
    mypycify = importlib.import_module("mypyc.build").mypycify

    class ParallelBuild(build_ext):  # type: ignore[misc, valid-type]
        """setuptools compiles the files of one extension one after the other."""

        def build_extensions(self) -> None:
            compile_one = self.compiler.compile

            def compile_all(sources: Sequence[str], **options: Any) -> list[str]:
                with ThreadPoolExecutor(os.cpu_count()) as pool:
                    objects = pool.map(lambda source: compile_one([source], **options), sources)
                    return [name for names in objects for name in names]

            self.compiler.compile = compile_all
            super().build_extensions()

    # The strictness is that of the project's own check.
    mypy_options = ["--config-file=pyproject.toml", f"--cache-dir={folder / 'cache'}"]
    extensions = mypycify([*mypy_options, *paths], target_dir=str(folder / "c"), **OPTIONS)
    for extension in extensions:
        extension.extra_compile_args += COMPILER_OPTIONS
    setuptools.setup(
        name="hot-path",
        packages=[],
        ext_modules=extensions,
        cmdclass={"build_ext": ParallelBuild},
        script_args=["build_ext", f"--build-lib={folder / 'result'}", f"--build-temp={folder / 'objects'}"],
    )


# -- the command --------------------------------------------------------------------------------------


def main(arguments: Sequence[str]) -> int:
    """The exit status."""
    match arguments:
        case ["translate", folder, *paths]:
            _translate(Path(folder), paths)
            return 0
        case ["fits"]:
            return 0 if fits() else 1
        case [] | ["able"]:
            return _attempt(only_ask=bool(arguments))
    sys.stderr.write(f"{__doc__}\n")
    return 2


def _attempt(only_ask: bool) -> int:
    try:
        find_compiler()
        if not only_ask and not fits():
            sys.stderr.write("Compiling the hot path, about a minute ...\n")
            build()
    except BuildError as error:
        sys.stderr.write(f"The hot path is not compiled, so that the middleware runs interpreted: {error}\n")
        return error.status
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
