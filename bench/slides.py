"""The lesson's figures for slides: `python -m bench.slides` writes dpo/images/slides/*.svg.

They show the run in dpo/dpo.pt, with the settings of the notebook. The licence is that of the
repository (MIT).
"""

from pathlib import Path

import matplotlib
from matplotlib.figure import Figure

from dpo import data, evaluation, plots
from dpo.compare import read_run
from dpo.training.history import History
from sft import arithmetic
from sft.checkpoint.weights import load_model
from sft.device import best_device

FOLDER = Path("dpo/images/slides")
BASE, TUNED, PAIRS = "sft/gpt.pt", "dpo/dpo.pt", "dpo/pos_neg_pairs.json"
DRAWN, N, SEED = 200, 60, 1  # as in the notebook
ASKED = arithmetic.Question("a+b", 28, 57)


def training_figure(history: History, beta: float) -> Figure:
    """The three panels as they stand at the end of the run."""
    live = plots.TrainingFigure(len(history), beta)
    live.update(history)
    return live.figure


def figures() -> dict[str, Figure]:
    """By name: answers drawn, a training, right answers, one character, the pairs."""
    device = best_device()
    (base, tokenizer), (tuned, _) = (load_model(path, device) for path in (BASE, TUNED))
    models = {"before": base, "after": tuned}
    pairs = data.load_pairs(PAIRS, tokenizer).pairs
    run = read_run(TUNED)
    questions = evaluation.sample_groups(N, SEED)
    sums = [ASKED, *(q for q in questions if q.group == "held_out/additive")]
    both = [data.Pair(q.text, q.right_answer, arithmetic.REFUSAL, 0) for q in sums]
    drawn = {
        name: evaluation.draw_replies(model, tokenizer, [ASKED] * DRAWN, 1.0, SEED)
        for name, model in models.items()
    }
    asked = {
        name: evaluation.answer_questions(model, tokenizer, questions)
        for name, model in models.items()
    }
    scored = (evaluation.score_pairs(model, tokenizer, both) for model in models.values())
    return {
        "drawn_answers": plots.draws_figure(drawn),
        "training": training_figure(run.history, run.settings["beta"]),
        "right_answers": plots.right_figure(asked),
        "one_character": plots.character_figure(*scored),
        "pairs": plots.likelihood_figure(evaluation.score_pairs(base, tokenizer, pairs)),
    }


def main() -> None:
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": "dpo"}):
        for name, figure in figures().items():
            plots.save_figure(figure, FOLDER / f"{name}.svg")


if __name__ == "__main__":
    main()
