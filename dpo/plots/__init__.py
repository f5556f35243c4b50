"""Every figure: matplotlib only, drawn on what a run recorded or a model answered."""

from dpo.plots.answers import (
    answer_figure,
    atlas_figure,
    before_after_figure,
    pass_at_k_figure,
    strip_figure,
)
from dpo.plots.kinds import border_figure, kinds_figure, odds_figure
from dpo.plots.museum import museum_figure
from dpo.plots.pairs import likelihood_figure, pairs_figure
from dpo.plots.runs import grid_figure, runs_figure
from dpo.plots.style import save_figure
from dpo.plots.training import LiveFigure, schedule_figure
from dpo.plots.tries import trial_figure

__all__ = [
    "LiveFigure",
    "answer_figure",
    "atlas_figure",
    "before_after_figure",
    "border_figure",
    "grid_figure",
    "kinds_figure",
    "likelihood_figure",
    "museum_figure",
    "odds_figure",
    "pairs_figure",
    "pass_at_k_figure",
    "runs_figure",
    "save_figure",
    "schedule_figure",
    "strip_figure",
    "trial_figure",
]
