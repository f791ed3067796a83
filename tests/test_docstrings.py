"""Docstrings do not lie about signatures: what they name exists, what is raised is told.

Not every argument needs a word; those under `Args:` and `Attributes:` must exist, in order. Everything under `Raises:`
must be an error that exists, and an error that a public function raises itself must stand there.
"""

from __future__ import annotations

import ast
import builtins
import importlib
import inspect
import re
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

PACKAGE = Path(__file__).resolve().parents[1] / "gfprestore"
MODULES = sorted(path for path in PACKAGE.rglob("*.py") if path.name != "__main__.py")
COMMAND_LINE = {"typer", "click"}  # their exceptions are exit codes, and the docstrings of commands are help texts
Function = ast.FunctionDef | ast.AsyncFunctionDef


def module_of(path: Path) -> ModuleType:
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of third parties; another test imports ours with warnings as errors
        return importlib.import_module(".".join(("gfprestore", *parts)).removesuffix(".__init__"))


def section(node: ast.AST, title: str) -> list[str]:
    """Names of the items in a google-style section, as `name: what it is`."""
    text = ast.get_docstring(node) or ""  # type: ignore[arg-type]
    found = re.search(rf"^{title}:\n((?:[ \t]+.*\n?|\n)+)", text, re.MULTILINE)
    if not found:
        return []
    indent = re.match(r"[ \t]+", found[1])
    assert indent, text
    return re.findall(rf"^{indent[0]}\*{{0,2}}([\w.]+)(?: \([^)]*\))?:", found[1], re.MULTILINE)


def definitions(tree: ast.Module) -> Iterator[tuple[str, ast.ClassDef | Function, bool]]:
    """All functions and classes with their dotted name and whether they are public."""

    def walk(parent: ast.AST, prefix: str, public: bool) -> Iterator[tuple[str, ast.ClassDef | Function, bool]]:
        for node in ast.iter_child_nodes(parent):
            if isinstance(node, (ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)):
                is_public = public and (not node.name.startswith("_") or node.name.startswith("__"))
                yield f"{prefix}{node.name}", node, is_public
                if isinstance(node, ast.ClassDef):
                    yield from walk(node, f"{prefix}{node.name}.", is_public)

    return walk(tree, "", True)


def arguments(function: Function) -> list[str]:
    given = function.args
    stars = [argument.arg for argument in (given.vararg, given.kwarg) if argument]
    return [argument.arg for argument in [*given.posonlyargs, *given.args, *given.kwonlyargs]] + stars


def attributes(node: ast.ClassDef) -> list[str]:
    """Fields, properties, and what methods put on `self`."""
    fields = [
        item.target.id for item in node.body if isinstance(item, ast.AnnAssign) and isinstance(item.target, ast.Name)
    ]
    fields += [
        target.id
        for item in node.body
        if isinstance(item, ast.Assign)
        for target in item.targets
        if isinstance(target, ast.Name)
    ]  # noqa: E501
    methods = [item.name for item in node.body if isinstance(item, (ast.FunctionDef, ast.AsyncFunctionDef))]
    own = [
        inner.attr
        for inner in ast.walk(node)
        if isinstance(inner, ast.Attribute) and isinstance(inner.value, ast.Name) and inner.value.id == "self"
    ]
    return list(dict.fromkeys([*fields, *methods, *own]))


def resolve(module: ModuleType, dotted: str) -> object:
    """What a name means in a module, or in those that it calls; None where it means nothing."""
    first, *rest = dotted.split(".")
    ours = [loaded for name, loaded in sorted(sys.modules.items()) if name.startswith("gfprestore.")]
    value = next((vars(place)[first] for place in (module, builtins, *ours) if first in vars(place)), None)
    for name in rest:
        value = getattr(value, name, None)
    return value


def raised(function: Function, module: ModuleType) -> Iterator[type[BaseException]]:
    """Errors raised by the function's own statements, less those that a `try` around them takes back."""

    def walk(node: ast.AST, caught: tuple[type, ...]) -> Iterator[type[BaseException]]:
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda, ast.ClassDef)):
            return
        if isinstance(node, ast.Raise) and node.exc is not None:
            named = node.exc.func if isinstance(node.exc, ast.Call) else node.exc
            error = resolve(module, ast.unparse(named))
            if inspect.isclass(error) and issubclass(error, BaseException) and not issubclass(error, caught):
                yield error
        if isinstance(node, ast.Try):
            types = [ast.unparse(handler.type).strip("()").split(", ") for handler in node.handlers if handler.type]
            here = [resolve(module, name) for names in types for name in names]
            inner = (*caught, *(error for error in here if inspect.isclass(error)))
            for child in node.body:
                yield from walk(child, inner)
            for child in [*node.handlers, *node.orelse, *node.finalbody]:
                yield from walk(child, caught)
            return
        for child in ast.iter_child_nodes(node):
            yield from walk(child, caught)

    for statement in function.body:
        yield from walk(statement, ())


def lies(path: Path) -> list[str]:
    """Everything in a source file's docstrings that its code does not bear out."""
    module, found = module_of(path), []
    for name, node, is_public in definitions(ast.parse(path.read_bytes())):
        where = f"{path.name}:{node.lineno} {name}"
        if isinstance(node, ast.ClassDef):
            unknown = [item for item in section(node, "Attributes") if item not in attributes(node)]
            init = next(
                (item for item in node.body if isinstance(item, ast.FunctionDef) and item.name == "__init__"), None
            )
            known = attributes(node) if init is None else arguments(init)
            unknown += [item for item in section(node, "Args") if item not in known]
            found += [f"{where}: {item} is no attribute" for item in unknown]
            continue
        told, there = section(node, "Args"), arguments(node)
        found += [f"{where}: {item} is no argument" for item in told if item not in there]
        if [item for item in there if item in told] != told and set(told) <= set(there):
            found.append(f"{where}: arguments in another order than in the signature")
        promises = {item: resolve(module, item) for item in section(node, "Raises")}
        found += [f"{where}: Raises {item}, which is no error" for item, error in promises.items() if error is None]
        if is_public and ast.get_docstring(node):
            promised = tuple(error for error in promises.values() if inspect.isclass(error))
            silent = {error for error in raised(node, module) if not issubclass(error, promised)}
            silent -= {AssertionError, NotImplementedError, AttributeError, KeyError, TypeError}
            names = [error.__name__ for error in silent if error.__module__.split(".")[0] not in COMMAND_LINE]
            found += [f"{where}: raises {error} and does not say so" for error in sorted(names)]
    return found


@pytest.mark.parametrize("path", MODULES, ids=lambda path: path.relative_to(PACKAGE).as_posix())
def test_docstrings_say_what_the_code_does(path: Path) -> None:
    found = lies(path)
    if found:
        pytest.fail("\n".join(found), pytrace=False)


def test_each_kind_of_lie_is_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = tmp_path / "lying.py"
    source.write_text(
        '''
def first(b, a):
    """Adds.

    Args:
        a: one.
        b: two
            and more: text.

    Raises:
        NoSuchError: never.
    """
    raise ValueError


def second(a, *, c):
    """Adds.

    Args:
        a: one.
        d: gone.

    Raises:
        LookupError: no.
    """
    try:
        raise OSError
    except OSError:
        raise IndexError from None


class Third:
    """Holds.

    Attributes:
        x: here.
        y: gone.
    """

    x: int
'''
    )
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(f"{__name__}.module_of", lambda path: importlib.import_module(path.stem))
    assert [lie.split(" ", 1)[1] for lie in lies(source)] == [
        "first: arguments in another order than in the signature",
        "first: Raises NoSuchError, which is no error",
        "first: raises ValueError and does not say so",
        "second: d is no argument",
        "Third: y is no attribute",
    ]
