"""Results as files: pages are rendered from them, and what is out of date is noticed."""

import json
import subprocess
from dataclasses import dataclass
from pathlib import Path

import pytest

from bench import everything, results, tables
from bench.measurements import MEASUREMENTS
from bench.results import Measurement
from dpo.evaluation.tables import markdown

PAGE = """Of 860<!--sums.n--> questions 7<!--sums.right--> are right.

<!-- results: sums.table -->
| an old | table |
<!-- end -->

The end.
"""
RENDERED = """Of 10<!--sums.n--> questions 9<!--sums.right--> are right.

<!-- results: sums.table -->

| right |
|-------|
| 9     |

<!-- end -->

The end.
"""


@dataclass
class World:
    """A folder with pages, a base, pairs, and two measurements."""

    folder: Path
    measured: list[str]  # names, in the order in which they were measured

    def problems(self):
        return list(tables.problems(self.folder, {one.name: one for one in tables.MEASUREMENTS}))

    def page(self):
        return (self.folder / "README.md").read_text(encoding="utf-8")


@pytest.fixture
def world(tmp_path, monkeypatch):
    """Sums, of which 9 of 10 are right, and a speed; nothing is measured yet."""
    measured = []

    def measurement(name, values, **settings):
        def measure():
            measured.append(name)
            return values

        def render(values):
            table = markdown([["right"], [str(values["right"])]])
            return {"table": table, **{key: str(value) for key, value in values.items()}}

        return Measurement(name, f"python -m bench.{name}", measure, render, **settings)

    both = (
        measurement("sums", {"right": 9, "n": 10}, minutes=5),
        measurement("speed", {"right": 3}, minutes=1, of_base=False),
    )
    monkeypatch.setattr(everything, "MEASUREMENTS", both)
    monkeypatch.setattr(tables, "MEASUREMENTS", both)
    monkeypatch.setattr(results, "FOLDER", tmp_path / "results")
    monkeypatch.setattr(results, "ROOT", tmp_path)
    monkeypatch.setattr(results, "code_hash", lambda paths: "0c0de000")
    for name in (results.Config.base, results.Config.pairs, *tables.PAGES):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("", encoding="utf-8")
    (tmp_path / "README.md").write_text(PAGE, encoding="utf-8")
    return World(tmp_path, measured)


@pytest.fixture
def rendered(world):
    """All is measured, and the pages are written."""
    everything.main(everything.Config())
    tables.main(tables.Config(), world.folder)
    return world


# Pages


def test_page_gets_the_results(rendered):
    assert rendered.page() == RENDERED


def test_rendering_again_changes_nothing(rendered):
    tables.main(tables.Config(), rendered.folder)
    assert rendered.page() == RENDERED


def test_rendered_pages_pass_the_check(rendered):
    tables.main(tables.Config(check=True), rendered.folder)
    assert rendered.problems() == []


@pytest.mark.parametrize(
    ("old", "new", "name"), [("| 9 ", "| 8 ", "sums.table"), (" 9<", " 8<", "sums.right")]
)
def test_check_catches_a_changed_digit(rendered, old, new, name):
    path = rendered.folder / "README.md"
    path.write_text(RENDERED.replace(old, new), encoding="utf-8")
    [problem] = rendered.problems()
    assert problem.startswith(f"README.md: {name}: has ")


def test_check_changes_nothing_and_fails(rendered):
    path = rendered.folder / "README.md"
    path.write_text(PAGE, encoding="utf-8")
    with pytest.raises(ValueError, match="pages or results are out of date"):
        tables.main(tables.Config(check=True), rendered.folder)
    assert rendered.page() == PAGE


@pytest.mark.parametrize("what", ["base", "pairs"])
def test_check_catches_another_file(rendered, what):
    path = rendered.folder / getattr(results.Config, what)
    path.write_text("another", encoding="utf-8")
    [problem] = rendered.problems()
    assert problem.startswith(f"sums.json is of {what} e3b0c442, today ")  # of an empty file


def test_check_catches_other_code(rendered, monkeypatch):
    monkeypatch.setattr(results, "code_hash", lambda paths: "0ther000")
    assert rendered.problems() == ["sums.json is of code 0c0de000, today 0ther000"]


@pytest.mark.parametrize(
    ("mark", "message"),
    [
        ("sums.left", "sums has no 'left'; it has: table, right, n, made"),
        ("other.right", "no result is called 'other'; there are: sums, speed"),
    ],
)
def test_unknown_key_is_one_sentence(rendered, mark, message):
    (rendered.folder / "README.md").write_text(f"8<!--{mark}-->", encoding="utf-8")
    assert rendered.problems() == [f"README.md: {message}"]


def test_missing_result_is_one_sentence(world):
    message = r"^3 texts stay as they were; README.md: sums.json is not there in bench/results; `py"
    with pytest.raises(ValueError, match=message):
        tables.main(tables.Config(), world.folder)


def test_missing_result_leaves_the_page(rendered):
    (rendered.folder / "results/sums.json").unlink()
    with pytest.raises(ValueError, match="3 texts stay"):
        tables.main(tables.Config(), rendered.folder)
    assert rendered.page() == RENDERED


def test_damaged_result_is_one_sentence(rendered):
    (rendered.folder / "results/sums.json").write_text("{", encoding="utf-8")
    assert rendered.problems()[0].startswith("sums.json cannot be read in bench/results")


# Measuring


def test_result_says_what_it_is_made_of(rendered):
    result = json.loads((rendered.folder / "results/sums.json").read_text())
    made = {"base": "e3b0c442", "pairs": "e3b0c442", "code": "0c0de000", "seed": 1}
    assert made.items() <= result.items()
    assert result["values"] == {"right": 9, "n": 10}
    assert result["command"] == "python -m bench.sums"


@pytest.mark.parametrize(("changed", "dirty"), [("model.py", True), ("README.md", False)])
def test_only_changed_code_makes_a_commit_dirty(world, changed, dirty):
    (world.folder / "model.py").touch()
    git = ("git", "-C", world.folder, "-c", "user.name=A", "-c", "user.email=a@b.c")
    for words in (["init", "--quiet"], ["add", "."], ["commit", "--quiet", "--message=A"]):
        subprocess.run([*git, *words], check=True)
    assert not results.describe_commit().endswith("-dirty")
    (world.folder / changed).write_text("# changed", encoding="utf-8")
    assert results.describe_commit().endswith("-dirty") is dirty


def test_cheapest_is_measured_first(rendered):
    assert rendered.measured == ["speed", "sums"]


def test_what_is_up_to_date_is_not_measured_again(rendered):
    everything.main(everything.Config())
    assert rendered.measured == ["speed", "sums"]


def test_another_base_is_measured_again_but_for_speeds(rendered):
    (rendered.folder / results.Config.base).write_text("another", encoding="utf-8")
    everything.main(everything.Config())
    assert rendered.measured == ["speed", "sums", "sums"]


def test_only_some_are_measured(world):
    everything.main(everything.Config(only="sums"))
    assert world.measured == ["sums"]


def test_unknown_measurement_is_one_sentence(world):
    with pytest.raises(ValueError, match="no measurement is called 'sms'; there are: sums, speed"):
        everything.main(everything.Config(only="sms"))


def test_ctrl_c_keeps_what_has_ended(world, monkeypatch):
    speed, _ = everything.choose("")

    def stop():
        raise KeyboardInterrupt

    stopped = Measurement("sums", "", stop, dict, minutes=5)
    monkeypatch.setattr(everything, "MEASUREMENTS", (stopped, speed))
    with pytest.raises(KeyboardInterrupt):
        everything.main(everything.Config())
    assert [one.outdated() == "" for one in (speed, stopped)] == [True, False]


def test_failure_lets_the_others_go_on(world, monkeypatch):
    failing = Measurement("fails", "", lambda: 1 / 0, dict, minutes=0.1)
    monkeypatch.setattr(everything, "MEASUREMENTS", (failing, *everything.MEASUREMENTS))
    with pytest.raises(ValueError, match="not measured: fails: ZeroDivisionError"):
        everything.main(everything.Config())
    assert world.measured == ["speed", "sums"]


def test_list_measures_nothing(world, capsys):
    everything.main(everything.Config(list=True))
    assert world.measured == []
    assert "| sums        | 5.0     | sums.json is not there" in capsys.readouterr().out


# The real ones


def test_measurements_have_names_of_their_own():
    names = [one.name for one in MEASUREMENTS]
    assert len(set(names)) == len(names)


def test_pages_say_what_the_results_say(capsys):
    """And the results are of today's base, pairs and answering code."""
    try:
        tables.main(tables.Config(check=True))
    except ValueError:
        pytest.fail(capsys.readouterr().out)
