"""Every command in the README exists, with settings that exist; every file it names is there."""

import importlib
import re
import shlex
from pathlib import Path

import pytest

from configurator import override

ROOT = Path(__file__).parents[1]
TEXT = (ROOT / "README.md").read_text(encoding="utf-8")
COMMANDS = sorted(set(re.findall(r"python -m ((?:dpo|sft|bench)\.\w+[^\n`#|]*)", TEXT)))


def test_there_are_commands_and_no_gaps():
    assert "@@" not in TEXT
    assert len(COMMANDS) >= 8


@pytest.mark.parametrize("command", COMMANDS)
def test_command_and_its_settings_exist(command):
    module, *words = shlex.split(command)
    if module.startswith("bench."):
        assert (ROOT / f"{module.replace('.', '/')}.py").exists() and not words
        return
    override(importlib.import_module(module).Config(), [word for word in words if word.startswith("--")])


def test_the_two_commands_are_those_of_ci():
    assert (
        "python -m pip install -r requirements.txt -c constraints.txt && jupyter execute --inplace dpo/dpo.ipynb"
        in TEXT
    )
    assert "python -m pip install -r requirements-dev.txt -c constraints.txt && python -m pytest" in TEXT
    script = (ROOT / ".ci/run").read_text()
    assert "python -m pip install --quiet -r requirements-dev.txt -c constraints.txt" in script
    assert script.rstrip().endswith("python -m pytest")


def test_links_and_the_tree_are_real():
    for target in re.findall(r"\]\((?!http)([^)#]+)\)", TEXT):
        assert (ROOT / target).exists(), target
    tree = TEXT.split("```text\n")[1].split("```")[0]
    folder = Path()
    for line in tree.splitlines():
        indent, names = re.match(r"( *)((?:\S+ ?)+)", line).groups()
        for name in names.split():
            if name.endswith("/"):
                folder = Path(name)
            assert (ROOT / (Path() if not indent or name.endswith("/") else folder) / name).exists(), name
