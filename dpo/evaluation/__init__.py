"""From a prompt to a number: replies, tables with intervals, single characters, retention."""

from dpo.evaluation.forecast import describe_forecast, score_pairs
from dpo.evaluation.replies import answer_questions, sample_domain, sample_questions
from dpo.evaluation.retention import describe_retention
from dpo.evaluation.sampling import draw_replies, right_table, sample_groups
from dpo.evaluation.tables import evaluate, forms_table, table
from dpo.evaluation.tokens import answer_characters, answer_logps

__all__ = [
    "answer_characters",
    "answer_logps",
    "answer_questions",
    "describe_forecast",
    "describe_retention",
    "draw_replies",
    "evaluate",
    "forms_table",
    "right_table",
    "sample_domain",
    "sample_groups",
    "sample_questions",
    "score_pairs",
    "table",
]
