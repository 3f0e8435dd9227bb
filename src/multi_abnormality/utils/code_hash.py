"""Hashes of source code by its meaning: comments, docstrings and log calls do not count.

The hashes are the same for Python 3.11 to 3.13, whose `ast.dump` differs.
"""

import ast
import hashlib
from collections.abc import Iterator, Sequence
from pathlib import Path

_POSITIONLESS = {"ctx", "kind", "type_comment"}  # fields that carry no meaning of their own
_LOGGERS = {"log", "logger", "console", "logging"}  # a statement that calls a method of these


def code_hashes(
    package: Path, roots: Sequence[str], ignored: Sequence[str]
) -> dict[str, dict[str, str]]:
    """Return a hash of each definition in some files and in all that they import.

    Args:
        package: directory of a package, whose imports of itself are absolute.
        roots: files of the package.
        ignored: prefixes of files that are left out, with what they import.

    Returns:
        Hashes by file and by name, such as "asymmetric_loss" or "TrainingStep.flush".
    """
    hashes: dict[str, dict[str, str]] = {}
    waiting = list(roots)
    while waiting:
        name = waiting.pop()
        if name in hashes or name.startswith(tuple(ignored)):
            continue
        tree = ast.parse((package / name).read_text(encoding="utf-8"))
        hashes[name] = dict(_definitions(tree))
        waiting += _imports(tree, package)
    return {name: hashes[name] for name in sorted(hashes)}


def _definitions(tree: ast.Module) -> Iterator[tuple[str, str]]:
    """Yield name and hash of each function and method, and of what stands around them."""
    others: list[ast.stmt] = []
    for node in tree.body:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield node.name, _hash([node])
        elif isinstance(node, ast.ClassDef):
            methods = [part for part in node.body if isinstance(part, ast.FunctionDef)]
            for method in methods:
                yield f"{node.name}.{method.name}", _hash([method])
            node.body = [part for part in node.body if part not in methods]
            yield node.name, _hash([node])
        else:
            others.append(node)
    yield "module level", _hash(others)


def _hash(nodes: Sequence[ast.stmt]) -> str:
    text = _canonical(list(nodes))
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def _canonical(value: object) -> str:
    """Return type and non-empty fields of a node, recursively."""
    if isinstance(value, list):
        return "[" + ",".join(_canonical(each) for each in value if not _is_ignored(each)) + "]"
    if not isinstance(value, ast.AST):
        return repr(value)
    fields = [
        f"{name}={_canonical(field)}"
        for name, field in ast.iter_fields(value)
        if name not in _POSITIONLESS and field is not None and field != []
    ]
    return f"{type(value).__name__}({','.join(fields)})"


def _is_ignored(node: object) -> bool:
    """Whether a node is a docstring or another statement of a constant, or a log call."""
    if not isinstance(node, ast.Expr):
        return False
    if isinstance(node.value, ast.Constant):
        return True
    called = node.value.func if isinstance(node.value, ast.Call) else None
    return isinstance(called, ast.Attribute) and ast.unparse(called).split(".")[0] in _LOGGERS


def _imports(tree: ast.Module, package: Path) -> Iterator[str]:
    """Yield the files of the package that a module imports."""
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith(package.name):
            names = [node.module or "", *(f"{node.module}.{alias.name}" for alias in node.names)]
        elif isinstance(node, ast.Import):
            names = [alias.name for alias in node.names if alias.name.startswith(package.name)]
        else:
            continue
        for name in names:
            path = package.parent.joinpath(*name.split(".")).with_suffix(".py")
            if path.is_file():
                yield path.relative_to(package).as_posix()
