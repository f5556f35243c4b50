"""Sentences of the pages that judge, held against the results in bench/results."""

import json

import pytest

from bench.results import FOLDER


def values_of(name):
    return json.loads((FOLDER / f"{name}.json").read_text(encoding="utf-8"))["values"]


def test_all_runs_of_an_exhibit_agree():
    for run in values_of("museum").values():
        assert run["harmed"] in (0, 5)
        assert list(run["said"].values()) == [5]


def test_other_seeds_and_threads_give_the_same_verdicts():
    verdicts = [
        {title: (run["harmed"], run["said"]) for title, run in values_of(name).items()}
        for name in ("museum", "museum_again")
    ]
    assert verdicts[0] == verdicts[1]


def test_none_of_fifty_healthy_runs_is_called_broken():
    assert values_of("healthy_runs")["healthy"]["said"] == {"no problem seen": 50}


@pytest.mark.parametrize(
    ("share", "least"), [("held-out additive right", 0.995), ("small talk kept", 0.99)]
)
def test_the_worst_of_ten_seeds_still_holds(share, least):
    rates = [run["shares"][share]["rate"] for run in values_of("seeds")["runs"]]
    assert len(rates) == 10
    assert min(rates) >= least


def test_one_word_decides_in_every_seed():
    sums = "sums and differences: 17+19=?"
    do_not, dont = values_of("four_pairs").values()
    assert {run[sums]["right"] for run in do_not["runs"]} == {0}
    assert {run[sums]["right"] for run in dont["runs"]} == {60}
