"""The house: which file imports which, counted with the standard library."""

import ast
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
MOST_FLOORS, MOST_COMMANDS = 8, 16


def module_name(path):
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


FILES = {
    module_name(path): path
    for pattern in ("model.py", "configurator.py", "sft/**/*.py", "dpo/**/*.py")
    for path in ROOT.glob(pattern)
}
FACES = {name for name, path in FILES.items() if path.name == "__init__.py"}


def imported(tree):
    """(module, name) of all imports of the library in a syntax tree; "" for whole modules."""
    for node in ast.walk(tree):
        assert not getattr(node, "level", 0), "an import names its module in full"
        if isinstance(node, ast.ImportFrom) and node.module in FILES:
            yield from ((node.module, alias.name) for alias in node.names)
        elif isinstance(node, ast.Import):
            yield from ((alias.name, "") for alias in node.names if alias.name in FILES)


@cache
def parse(module):
    return ast.parse(FILES[module].read_text(encoding="utf-8"))


def home(module, name):
    """The file that an imported name comes from: a face only hands names on."""
    if f"{module}.{name}" in FILES:
        return f"{module}.{name}"
    if module in FACES:
        for source, handed_on in imported(parse(module)):
            if handed_on == name:
                return home(source, name)
    return module


@cache
def arrows(module):
    """The files that a file imports, without faces: Python's own loading of them is no arrow."""
    return {home(*pair) for pair in imported(parse(module))} - {module}


def longest_way(module, above=()):
    """The chain of imports from a module down, the longest there is; AssertionError in a circle."""
    assert module not in above, f"a circle: {' -> '.join([*above, module])}"
    ways = [longest_way(below, (*above, module)) for below in sorted(arrows(module))]
    return [module, *max(ways, key=len, default=[])]


@pytest.mark.parametrize("module", sorted(FILES.keys() - FACES))
def test_no_circle_and_few_floors(module):
    assert len(longest_way(module)) <= MOST_FLOORS, " -> ".join(longest_way(module))


@pytest.mark.parametrize("module", sorted(name for name in FILES if name.startswith("sft")))
def test_sft_imports_nothing_of_dpo(module):
    assert not [below for below in arrows(module) if below.startswith("dpo")]


@pytest.mark.parametrize("module", sorted(FILES))
def test_imports_stand_at_the_top(module):
    """An import inside a function hides a circle."""
    functions = [node for node in ast.walk(parse(module)) if isinstance(node, ast.FunctionDef)]
    assert not [pair for function in functions for pair in imported(function)]


# A part and the parts that it may import. All else in dpo/ is a command, which may import any.
MAY_IMPORT = {
    "model": set(),
    "configurator": set(),
    "sft": {"model", "configurator"},
    "dpo.loss": set(),  # and loss_variants
    "dpo.data": {"model", "sft"},
    "dpo.evaluation": {"model", "sft", "dpo.data"},
    "dpo.training": {"model", "sft", "dpo.loss", "dpo.data", "dpo.evaluation"},
    "dpo.plots": {"model", "sft", "dpo.loss", "dpo.data", "dpo.evaluation", "dpo.training"},
}


def part(module):
    return next((name for name in MAY_IMPORT if module.startswith(name)), "commands")


@pytest.mark.parametrize("module", sorted(FILES))
def test_arrows_run_one_way(module):
    others = {part(below) for below in arrows(module)} - {part(module)}
    assert others <= MAY_IMPORT.get(part(module), set(MAY_IMPORT))


def test_few_modules_stand_flat_in_dpo():
    flat = [name for name in FILES.keys() - FACES if name.count(".") == 1 and name[:3] == "dpo"]
    assert len(flat) <= MOST_COMMANDS, sorted(flat)


@pytest.mark.parametrize("face", sorted(FACES))
def test_a_face_says_what_its_folder_is(face):
    assert ast.get_docstring(parse(face))


def test_every_folder_of_code_has_a_face():
    folders = {path.parent for path in FILES.values()} - {ROOT, ROOT / "dpo/settings"}
    assert {path.parent for path in map(FILES.get, FACES)} == folders
