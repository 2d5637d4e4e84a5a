"""No module of evalfm imports, by way of others, itself: at the top of a file or within a function."""

from __future__ import annotations

import ast
from collections import deque
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def test_no_module_imports_itself_by_way_of_others():
    cycles = import_cycles(ROOT / "evalfm")
    assert not cycles, "Import cycles, to be removed by moving what is shared to a module below both:\n" + "\n".join(
        " -> ".join([*cycle, cycle[0]]) for cycle in cycles
    )


def test_a_cycle_through_a_function_and_a_package_is_listed(tmp_path: Path):
    package = tmp_path / "package"
    (package / "inner").mkdir(parents=True)
    (package / "__init__.py").write_text("")
    (package / "one.py").write_text("from package.inner import NUMBER\n")
    (package / "inner" / "__init__.py").write_text("from ..two import NUMBER\n")
    (package / "two.py").write_text("NUMBER = 2\n\ndef late():\n    from package import one\n")
    (package / "apart.py").write_text("import package.two\n")
    assert import_cycles(package) == [["package.inner", "package.two", "package.one"]]


def test_an_import_for_types_alone_makes_no_cycle(tmp_path: Path):
    package = tmp_path / "package"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "one.py").write_text("import package.two\n")
    (package / "two.py").write_text("from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import package.one\n")
    assert import_cycles(package) == []


def import_cycles(package: Path) -> list[list[str]]:
    """The shortest cycle through each module that is in one, each once, in import order."""
    files = {_name(package, file): file for file in sorted(package.rglob("*.py"))}
    imports = {name: set(_imports(name, file, files)) - {name} for name, file in files.items()}
    cycles: list[list[str]] = []
    for name in sorted(imports):
        cycle = _shortest_cycle(name, imports)
        if cycle and set(cycle) not in map(set, cycles):
            cycles.append(cycle)
    return cycles


def _name(package: Path, file: Path) -> str:
    parts = file.relative_to(package.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def _imports(name: str, file: Path, known: dict[str, Path]) -> Iterator[str]:
    """Modules of ``known`` that ``file`` imports when it runs."""
    package = name if file.name == "__init__.py" else name.rpartition(".")[0]
    for node in _nodes(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name in known)
        elif isinstance(node, ast.ImportFrom):
            above = package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
            base = ".".join([*above, *([node.module] if node.module else [])])
            for alias in node.names:
                yield from [each for each in (f"{base}.{alias.name}", base) if each in known][:1]


def _nodes(node: ast.AST) -> Iterator[ast.AST]:
    """Every node below ``node`` but what stands under ``if TYPE_CHECKING``."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.If) and ast.unparse(child.test).endswith("TYPE_CHECKING"):
            children: list[ast.AST] = list(child.orelse)
        else:
            children = [child]
        for each in children:
            yield each
            yield from _nodes(each)


def _shortest_cycle(start: str, imports: dict[str, set[str]]) -> list[str]:
    paths = deque([[start]])
    seen = {start}
    while paths:
        path = paths.popleft()
        for name in sorted(imports[path[-1]]):
            if name == start:
                return path
            if name not in seen:
                seen.add(name)
                paths.append([*path, name])
    return []
