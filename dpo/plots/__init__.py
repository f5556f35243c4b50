"""Every figure: matplotlib only, drawn on what a run recorded or a model answered."""

from dpo.plots.answers import answer_figure, atlas_figure, pass_at_k_figure
from dpo.plots.kinds import border_figure, kinds_figure, odds_figure
from dpo.plots.lesson import TrainingFigure, character_figure, draws_figure, right_figure
from dpo.plots.museum import exhibit_figure, museum_figure, museum_puzzle, puzzle_order
from dpo.plots.pairs import likelihood_figure, pairs_figure
from dpo.plots.runs import grid_figure, runs_figure
from dpo.plots.style import save_figure
from dpo.plots.training import dials_figure
from dpo.plots.tries import trial_figure

__all__ = [
    "TrainingFigure",
    "answer_figure",
    "atlas_figure",
    "border_figure",
    "character_figure",
    "dials_figure",
    "draws_figure",
    "exhibit_figure",
    "grid_figure",
    "kinds_figure",
    "likelihood_figure",
    "museum_figure",
    "museum_puzzle",
    "odds_figure",
    "pairs_figure",
    "pass_at_k_figure",
    "puzzle_order",
    "right_figure",
    "runs_figure",
    "save_figure",
    "trial_figure",
]
