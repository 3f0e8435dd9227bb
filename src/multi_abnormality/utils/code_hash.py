"""Hashes of source code by its meaning.

Comments, docstrings, log calls, the texts of errors, and annotations of functions do not count. The
hashes are the same for Python 3.11 to 3.13, whose `ast.dump` differs.
"""

import ast
import hashlib
from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath

_POSITIONLESS = {"ctx", "kind", "type_comment"}  # fields that carry no meaning of their own
_LOGGERS = {"log", "logger", "console", "logging"}  # a statement that calls a method of these
_Function = ast.FunctionDef | ast.AsyncFunctionDef


def code_hashes(
    package: Path, roots: Sequence[str], ignored: Sequence[str]
) -> dict[str, dict[str, str]]:
    """Return a hash of each definition in some files and in all that they import.

    Args:
        package: directory of a package.
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
        waiting += _imports(tree, package, PurePosixPath(name))
        hashes[name] = _definitions(tree)
    # The __init__.py of a package usually has a docstring at most.
    return {name: hashes[name] for name in sorted(hashes) if hashes[name] or name in roots}


def _definitions(tree: ast.Module) -> dict[str, str]:
    """Return the hash of each function and method, and of what stands around them.

    A name that is defined twice, such as a property with a setter, has one hash of both.
    """
    found: dict[str, list[ast.stmt]] = defaultdict(list)
    for node in tree.body:
        if isinstance(node, ast.ClassDef):
            methods = [part for part in node.body if isinstance(part, _Function)]
            for method in methods:
                found[f"{node.name}.{method.name}"].append(method)
            node.body = [part for part in node.body if part not in methods]
        if isinstance(node, _Function | ast.ClassDef):
            found[node.name].append(node)
        elif not _is_ignored(node):
            found["module level"].append(node)
    return {
        name: hashlib.sha256(_canonical(nodes).encode()).hexdigest()[:12]
        for name, nodes in found.items()
    }


def _canonical(value: object) -> str:
    """Return type and non-empty fields of a node, recursively."""
    if isinstance(value, list):
        return "[" + ",".join(_canonical(each) for each in value if not _is_ignored(each)) + "]"
    if not isinstance(value, ast.AST):
        return repr(value)
    fields = [
        f"{name}={_canonical(field)}"
        for name, field in ast.iter_fields(_simplified(value))
        if name not in _POSITIONLESS and field is not None and field != []
    ]
    return f"{type(value).__name__}({','.join(fields)})"


def _simplified(node: ast.AST) -> ast.AST:
    """Remove what is only for readers: an error's text, and annotations of a plain function.

    Annotations of variables make the fields of a dataclass, and decorators may read a function's.
    """
    if isinstance(node, ast.Raise) and isinstance(node.exc, ast.Call):
        node.exc.args = [arg for arg in node.exc.args if not _is_text(arg)]
    elif isinstance(node, ast.Assert):
        node.msg = None
    elif isinstance(node, _Function) and not node.decorator_list:
        node.returns = None
        for part in ast.walk(node.args):
            if isinstance(part, ast.arg):
                part.annotation = None
    elif isinstance(node, ast.JoinedStr):  # Python 3.12 ends f"{x:>{n}}" with an empty text
        node.values = [part for part in node.values if getattr(part, "value", None) != ""]
    return node


def _is_text(node: ast.expr) -> bool:
    """Whether an expression is a string literal, an f-string or a sum of such."""
    if isinstance(node, ast.BinOp):
        return _is_text(node.left) or _is_text(node.right)
    return isinstance(node, ast.JoinedStr) or (
        isinstance(node, ast.Constant) and isinstance(node.value, str)
    )


def _is_ignored(node: object) -> bool:
    """Whether a node is a docstring or another statement of a constant, or a log call."""
    if not isinstance(node, ast.Expr):
        return False
    if isinstance(node.value, ast.Constant):
        return True
    called = node.value.func if isinstance(node.value, ast.Call) else None
    return isinstance(called, ast.Attribute) and ast.unparse(called).split(".")[0] in _LOGGERS


def _imports(tree: ast.Module, package: Path, file: PurePosixPath) -> Iterator[str]:
    """Yield the files of the package that a module imports, with the packages that hold them."""
    for name in [f"{package.name}.{'.'.join(file.parent.parts)}", *_imported(tree, package, file)]:
        first, *parts = name.split(".")
        if first == package.name:
            folder = PurePosixPath()
            candidates = [folder / "__init__.py"]
            for part in filter(None, parts):
                candidates.append(folder / f"{part}.py")
                folder /= part
                candidates.append(folder / "__init__.py")
            yield from (str(path) for path in candidates if (package / path).is_file())


def _imported(tree: ast.Module, package: Path, file: PurePosixPath) -> Iterator[str]:
    """Yield the full names of imported modules, and of imported names, which may be modules."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = (package.name, *file.parents[node.level - 1].parts) if node.level else ()
            module = ".".join([*above, *([node.module] if node.module else [])])
            yield from (f"{module}.{alias.name}" for alias in node.names)
