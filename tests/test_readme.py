"""Every command in the README exists, with settings that exist; every file it names is there."""

import importlib
import re
import shlex
from collections import Counter
from pathlib import Path

import pytest
import test_hostile as hostile

from configurator import override

ROOT = Path(__file__).parents[1]
TEXT = (ROOT / "README.md").read_text(encoding="utf-8")
COMMANDS = sorted(set(re.findall(r"(?:python|torchrun [^\n`]*) -m ((?:dpo|sft|bench)\.\w+[^\n`#|]*)", TEXT)))


def test_there_are_commands_and_no_gaps():
    assert "@@" not in TEXT
    assert len(COMMANDS) >= 8


@pytest.mark.parametrize("command", COMMANDS)
def test_command_and_its_settings_exist(command, monkeypatch):
    module, *words = shlex.split(command)
    if module.startswith("bench."):
        assert (ROOT / f"{module.replace('.', '/')}.py").exists() and not words
        return
    monkeypatch.chdir(ROOT)
    given = [word for word in words if word.startswith("--") or word.endswith(".py")]
    override(importlib.import_module(module).Config(), given)


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


def test_the_table_of_hostile_files_counts_right():
    counts = Counter(name.split()[0] for name in [*hostile.BAD_FILES, *hostile.BAD_VOCABULARIES])
    counts |= {"S24": 4, "S25": counts["S25"] + len(hostile.PLACES) + 1, "S28": len(hostile.BAD_PAIRS)}
    rows = re.findall(r"^\| (S\d+(?:, S\d+)*) \| .* \| ([\d,]+|accepted) \|$", TEXT, re.MULTILINE)
    told = {names: count for names, count in rows if count != "accepted" and names != "S30"}
    assert {names: sum(counts[name] for name in names.split(", ")) for names in told} == {
        names: int(count) for names, count in told.items()
    }
    assert dict(rows)["S30"] == f"{4 * hostile.MUTANTS:,}"
    assert {f"S{i}" for i in range(1, 31)} == {name for names, _ in rows for name in names.split(", ")}


def test_every_fault_has_a_row():
    rows = re.findall(r"^\| (R\d+) \| .* \| .* \| (?:\d+|every run) \|$", TEXT, re.MULTILINE)
    assert rows == [f"R{i}" for i in range(1, 21)]
