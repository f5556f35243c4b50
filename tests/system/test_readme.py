"""Every command of the README files runs on a tiny base; all that they name exists.

Not run here are the programs in bench/, which take minutes to an hour (test_bench.py tries their
parts), dpo.notebook (test_notebook_command.py) and torchrun, whose commands run in one process (in
two: test_processes.py).
"""

import ast
import importlib
import re
import shlex
import shutil
from collections import Counter
from dataclasses import fields
from pathlib import Path

import hostile_files
import pytest
import test_hostile
from conftest import TINY, make_terse

from configurator import configure, override
from dpo.evaluation.replies import sample_domain
from model import GPTConfig
from sft.arithmetic import REFUSAL, parse_question
from sft.checkpoint.weights import save_checkpoint
from sft.corpus import everyday_lines

ROOT = Path(__file__).parents[2]
PAGES = {  # the order in which their commands are run
    name: (ROOT / name).read_text(encoding="utf-8")
    for name in (
        "README.md",
        "CONTRIBUTING.md",
        "dpo/README.md",
        "dpo/LESSON.md",
        "dpo/LESSON_ANSWERS.md",
        "sft/README.md",
        "bench/README.md",
        "bench/LOG.md",
        "tests/README.md",
    )
}
README, CASES = PAGES["README.md"], PAGES["tests/README.md"]
COMMAND = re.compile(r"(?:python|torchrun [^\n`]*) -m ((?:dpo|sft|bench)\.\w+[^\n`#|&]*)")
every_page = pytest.mark.parametrize("page", PAGES)


# Commands


def one_line_each(text):
    """The page without line breaks in its code in prose."""
    prose_and_blocks = text.split("```")
    prose_and_blocks[::2] = [
        re.sub(r"`[^`]+`", lambda code: code[0].replace("\n", " "), prose)
        for prose in prose_and_blocks[::2]
    ]
    return "```".join(prose_and_blocks)


def commands(text):
    """All that stand behind `python -m` or torchrun's -m, in order, each once."""
    found = (command.strip() for command in COMMAND.findall(one_line_each(text)))
    return list(dict.fromkeys(found))


COMMANDS = commands("\n".join(PAGES.values()))
PLACEHOLDERS = {"FLAGS", "--device=cuda"}
SMALL = {  # what makes a program quick; later words win
    "dpo.train": "--steps=1 --epochs=0 --eval_questions=2 --batch_size=8 --device=cpu",
    "dpo.sweep": (
        "--grid='beta=0.1,0.5 nll_coef=0,1' --steps=1 --eval_questions=2 --batch_size=8 --n=2"
    ),
    "dpo.evaluate": "--n=2",
    "dpo.compare": "--n=2",
    "dpo.try_pairs": "--n=1 --device=cpu",
    "dpo.border": "--n=2 --steps=1",
    "dpo.pass_at_k": "--n=1",
    "dpo.formats": "--n=2",
    "dpo.museum": "'one word' --n=2 --seeds=1",
    "dpo.make_pairs": "--n=24",
    "sft.train": "--effort=0.00001",
}


def test_pages_have_commands_and_no_gaps():
    assert len(COMMANDS) > 40
    assert not [page for page, text in PAGES.items() if "@@" in text]


@pytest.mark.parametrize("command", COMMANDS)
def test_command_and_its_settings_exist(command, monkeypatch):
    module, *words = shlex.split(command)
    if module.startswith("bench.") and not words:
        assert (ROOT / f"{module.replace('.', '/')}.py").exists()
        return
    monkeypatch.chdir(ROOT)
    given = [word for word in words if word.startswith("--") or word.endswith(".py")]
    override(importlib.import_module(module).Config(), given)


OF_OTHERS = {"help", "standalone", "nproc_per_node", "nnodes", "rdzv_backend", "rdzv_endpoint"}
OF_OTHERS |= {"check", "key"}  # ruff's, and "--key=value"


@every_page
def test_settings_in_prose_exist(page):
    """Also those that stand alone, as in the tables of LOG.md."""
    modules = {command.split()[0] for command in COMMANDS if not command.startswith("bench.")}
    modules |= {"bench.everything", "bench.tables"}
    known = {
        field.name.removesuffix("_")
        for module in modules
        for field in fields(importlib.import_module(module).Config)
    }
    code = " ".join(re.findall(r"`[^`]+`", PAGES[page]))
    assert set(re.findall(r"(?<!\S)`?--(\w+)", code)) <= known | OF_OTHERS


@pytest.fixture
def small_repository(tmp_path, tokenizer, pairs_file, monkeypatch):
    """The working folder is a repository with a tiny base and two runs; long work is cut short."""
    for folder in ("dpo", "sft"):
        (tmp_path / folder).mkdir()
    shutil.copytree(ROOT / "dpo/settings", tmp_path / "dpo/settings")
    shutil.copy(ROOT / "sft/meta.pkl", tmp_path / "sft")
    shutil.copy(pairs_file, tmp_path / "dpo/pos_neg_pairs.json")
    save_checkpoint(tmp_path / "sft/gpt.pt", make_terse(tokenizer))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("dpo.atlas.everything", lambda: sample_domain(3, seed=1))
    monkeypatch.setattr("dpo.border.LADDER", (0, 1))
    monkeypatch.setattr("dpo.evaluation.retention.everyday_lines", lambda: everyday_lines()[:20])
    monkeypatch.setattr("dpo.make_pairs.generate_answers", right_and_wrong)
    monkeypatch.setattr("sft.train.BATCH_LINES", 8)
    monkeypatch.setattr("sft.train.GPTConfig", lambda: GPTConfig(**TINY))
    monkeypatch.setattr("sft.train.EVAL_QUESTIONS", 3)
    monkeypatch.setattr("sft.train.REPORT_QUESTIONS", 3)
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
    for command in COMMANDS:
        if command.startswith(("bench.", "dpo.notebook")):
            continue
        if "dpo.state.pt" in command:  # is there while a run goes on
            shutil.copy("dpo/dpo.pt", "dpo/dpo.state.pt")
        try:
            run(command)
        except Exception as error:
            raise AssertionError(f"python -m {command}: {error}") from error
    made = "hf/model.safetensors three.png sweep/grid.png pairs.png back.json back.pt blank.pt"
    made += " two/dpo.pt more/dpo.pt second/dpo.pt taught/dpo.pt"
    assert not [name for name in made.split() if not Path("runs", name).exists()]


FIRST = ["python -m pip install -r requirements.txt -c constraints.txt", "python -m dpo.notebook"]
SECOND = ["python -m pip install -r requirements-dev.txt -c constraints.txt", "python -m pytest"]


def test_readme_begins_with_its_two_blocks():
    """One command a line: Windows' own PowerShell knows no `&&`."""
    blocks = [block.splitlines()[1:] for block in README.split("```")[1::2]]
    assert blocks[:2] == [FIRST, SECOND]


def test_second_block_is_that_of_ci():
    script = (ROOT / ".ci/run").read_text()
    install, test = SECOND
    assert install.replace("install", "install --quiet") in script
    assert script.rstrip().endswith(test)


# Files and sections


def anchors(text):
    """What a link can point to in a page, as GitHub names it."""
    without_code = re.sub(r"```.*?```", "", text, flags=re.DOTALL)
    headings = re.findall(r"^#+ (.*)$", without_code, re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


@every_page
def test_links_lead_somewhere(page):
    links = re.findall(r"\]\((?!https?:)([^)\s]+)\)|src=\"([^\"]+)\"", PAGES[page])
    for link in map("".join, links):
        path, _, section = link.partition("#")
        target = (ROOT / page).parent / path if path else ROOT / page
        assert target.exists(), link
        if section:
            assert section in anchors(target.read_text(encoding="utf-8")), link


FILE = re.compile(r"`([a-z]\w*/(?:[\w.]+/)*\w+\.(?:py|md|json|txt|png|ipynb|pkl))`")


@every_page
def test_files_that_are_named_are_there(page):
    """In the root or the page's folder. Commands make those in runs/; capitals stand for any."""
    named = [name for name in FILE.findall(PAGES[page]) if not re.match(r"runs/|.*[A-Z]{3}", name)]
    folders = (ROOT, (ROOT / page).parent)
    assert not [name for name in named if not any((folder / name).exists() for folder in folders)]


def test_paths_of_pytest_are_there():
    text = " ".join(map(one_line_each, PAGES.values()))
    paths = " ".join(re.findall(r"python -m pytest ([^`\n&]+)", text)).split()
    assert paths
    assert not [path for path in paths if not (ROOT / path).exists()]


def in_the_map():
    """All paths of README's map. Its indented names lie in the folder that was named last."""
    folder = Path()
    for line in README.split("```text\n")[1].split("```")[0].splitlines():
        indent, names = re.match(r"( *)((?:\S+ ?)+)", line).groups()
        for name in names.split():
            if name.endswith("/"):
                folder = Path(name)
                yield folder
            else:
                yield folder / name if indent else Path(name)


def test_all_of_the_map_is_there():
    assert not [path for path in in_the_map() if not (ROOT / path).exists()]


def test_map_has_every_file_of_the_library():
    code = [path for part in ("*.py", "dpo/**/*.py", "sft/**/*.py") for path in ROOT.glob(part)]
    code = {path.relative_to(ROOT) for path in code if path.name != "__init__.py"}
    assert code - set(in_the_map()) == set()


# The lists of cases in tests/README.md


def texts_of_tests():
    """What tests and their settings say, by file: without the text at the beginning."""
    for path in ROOT.glob("tests/*/test_*.py"):
        text = path.read_text(encoding="utf-8")
        yield (
            path.name,
            text.removeprefix(f'"""{ast.get_docstring(ast.parse(text), clean=False)}"""'),
        )


def test_every_fault_has_a_row_and_a_test():
    rows = re.findall(r"^\| (R\d+) \| .* \| .* \| (?:\d+|every run) \|$", CASES, re.MULTILINE)
    assert rows == [f"R{i}" for i in range(1, 21)]
    texts = dict(texts_of_tests())
    texts.pop("test_readme.py")
    assert {fault for text in texts.values() for fault in re.findall(r"\bR\d+\b", text)} == {*rows}


def hostile_rows():
    """{numbers of a row: how many it says there are}."""
    row = r"^\| (S\d+(?:, S\d+)*) \| .* \| ([\d,]+|accepted) \|$"
    return dict(re.findall(row, CASES, re.MULTILINE))


def test_every_hostile_kind_has_a_row():
    numbers = {number for names in hostile_rows() for number in names.split(", ")}
    assert numbers == {f"S{i}" for i in range(1, 31)}


def test_rows_of_hostile_files_count_right():
    names = [*hostile_files.BAD_FILES, *hostile_files.BAD_VOCABULARIES, *test_hostile.PLACES]
    counts = Counter(name.split()[0] for name in names)
    counts["S24"] = 4  # protocols
    counts["S25"] += 1  # a file that may not be read
    counts["S28"] = len(hostile_files.BAD_PAIRS)
    counts["S30"] = 4 * test_hostile.MUTANTS
    told = {names: count for names, count in hostile_rows().items() if count != "accepted"}
    assert told == {
        names: f"{sum(counts[number] for number in names.split(', ')):,}" for names in told
    }


def test_accepted_hostile_kinds_have_tests():
    text = dict(texts_of_tests())["test_hostile.py"]
    accepted = [names for names, count in hostile_rows().items() if count == "accepted"]
    numbers = [number for names in accepted for number in names.split(", ")]
    assert numbers == ["S22", "S29"]
    assert not [number for number in numbers if not re.search(rf"\b{number}\b", text)]


def test_every_letter_of_processes_has_a_test():
    letters = re.findall(r"^\| ([a-z]) \| ", CASES, re.MULTILINE)
    text = dict(texts_of_tests())["test_processes.py"]
    assert letters == list("abcdefghijk")
    assert not [letter for letter in letters if f"({letter})" not in text]
