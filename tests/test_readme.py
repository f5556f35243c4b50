"""Every command of the README runs, on a tiny base; every setting, file and section that it names is there.

Not run here are the programs in bench/, which take minutes to an hour (tests/test_bench.py tries their parts), jupyter
(tests/test_notebook.py) and torchrun, whose commands run in one process (in two: tests/test_processes.py).
"""

import importlib
import re
import shlex
import shutil
from collections import Counter
from pathlib import Path

import pytest
import test_hostile as hostile
from conftest import TINY

from configurator import configure, override
from dpo.arithmetic import REFUSAL, parse_question
from dpo.evaluate import sample_domain
from model import GPTConfig
from sft.checkpoint import save_checkpoint

ROOT = Path(__file__).parents[1]
TEXT = (ROOT / "README.md").read_text(encoding="utf-8")
CONTRIBUTING = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
COMMAND = re.compile(r"(?:python|torchrun [^\n`]*) -m ((?:dpo|sft|bench)\.\w+[^\n`#|&]*)")


def commands(text):
    """All that stand behind `python -m` or torchrun's -m, in order, each once; in prose a line may break in one."""
    prose_and_blocks = text.split("```")
    prose_and_blocks[::2] = [
        re.sub(r"`[^`]+`", lambda code: code[0].replace("\n", " "), p) for p in prose_and_blocks[::2]
    ]
    return list(dict.fromkeys(command.strip() for command in COMMAND.findall("```".join(prose_and_blocks))))


COMMANDS = commands(f"{TEXT}\n{CONTRIBUTING}")
PLACEHOLDERS = {"FLAGS", "FILE", "--device=cuda"}
SMALL = {  # what makes a program quick; later words win
    "dpo.train": "--epochs=1 --eval_questions=2 --batch_size=8 --device=cpu",
    "dpo.sweep": "--grid='beta=0.1,0.5 nll_coef=0,1' --epochs=1 --eval_questions=2 --batch_size=8 --n=2",
    "dpo.evaluate": "--n=2",
    "dpo.compare": "--n=2",
    "dpo.pass_at_k": "--n=1",
    "dpo.formats": "--n=2",
    "dpo.museum": "'format drift' --n=2",
    "dpo.make_pairs": "--n=24",
    "sft.train": "--effort=0.00001",
}


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


@pytest.fixture
def small_repository(tmp_path, tiny, pairs_file, monkeypatch):
    """The working folder is a repository with a tiny base, eight pairs and two runs; long work is cut short."""
    for folder in ("dpo", "sft"):
        (tmp_path / folder).mkdir()
    shutil.copytree(ROOT / "dpo/settings", tmp_path / "dpo/settings")
    shutil.copy(ROOT / "sft/meta.pkl", tmp_path / "sft")
    shutil.copy(pairs_file, tmp_path / "dpo/pos_neg_pairs.json")
    save_checkpoint(tmp_path / "sft/gpt.pt", tiny)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("dpo.atlas.whole_domain", lambda: sample_domain(3, seed=1))
    monkeypatch.setattr("dpo.museum.BLANK_STEPS", 2)
    monkeypatch.setattr("dpo.make_pairs.answer_prompts", right_and_wrong)
    monkeypatch.setattr("sft.train.BATCH_LINES", 8)
    monkeypatch.setattr("sft.train.GPTConfig", lambda: GPTConfig(**TINY))
    run("dpo.train")
    run("dpo.train --beta=0.2")


def right_and_wrong(model, tokenizer, prompts, *others, **settings):
    """Answers in turn, in place of a base that gives neither."""
    return [parse_question(p).right_answer if i % 2 else REFUSAL for i, p in enumerate(prompts)]


def run(command):
    module, *words = (word for word in shlex.split(command) if word not in PLACEHOLDERS)
    program = importlib.import_module(module)
    main = program.train if module == "dpo.train" else program.main
    main(configure(program.Config(), [*words, *shlex.split(SMALL.get(module, ""))]))


def test_every_command_runs_one_after_the_other(small_repository, capsys):
    done = [command for command in COMMANDS if not command.startswith("bench.")]
    for command in done:
        if "dpo.state.pt" in command:  # is there while a run goes on
            shutil.copy("dpo/dpo.pt", "dpo/dpo.state.pt")
        try:
            run(command)
        except Exception as error:
            raise AssertionError(f"python -m {command}: {error}") from error
    assert len(done) > 30
    for made in (
        "runs/hf/model.safetensors",
        "runs/three.png",
        "runs/sweep/grid.png",
        "runs/pairs.png",
        "dpo/atlas.png",
    ):
        assert Path(made).exists(), made


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
    for target in re.findall(r"\]\((?!http)([^)#]+)\)|src=\"([^\"]+)\"", TEXT):
        assert (ROOT / "".join(target)).exists(), target
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


def test_sections_that_are_pointed_to_are_there():
    headings = re.findall(r"^#+ (.*)$", TEXT, re.MULTILINE)
    anchors = {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}
    pointed = set(re.findall(r"\]\(#([^)]+)\)", TEXT))
    assert pointed and pointed <= anchors, pointed - anchors


def test_every_fault_has_a_row():
    rows = re.findall(r"^\| (R\d+) \| .* \| .* \| (?:\d+|every run) \|$", TEXT, re.MULTILINE)
    assert rows == [f"R{i}" for i in range(1, 21)]
