"""A second, on-policy round: `python -m bench.rounds`.

What do a model's own answers still teach it? dpo/dpo.pt answers questions of seen families, its
right and wrong answers become pairs, and it is tuned on them, with itself as the reference. Once
with the questions of the first round, once with wider ranges as well. About ten minutes on two CPU
cores. Prints a table: greedy and drawn answers before and after.
"""

from pathlib import Path

from bench.large import large_run
from bench.report import hardware
from dpo import make_pairs
from dpo.evaluation.replies import answer_questions, sample_domain, sample_questions
from dpo.evaluation.tables import describe_group, evaluate, markdown, percent, rate
from dpo.formats import ask_kinds, outcomes
from dpo.pass_at_k import count_right
from dpo.train import train
from model import GPT
from sft.checkpoint.weights import load_model
from sft.files import write_json
from sft.tokenizer import load_tokenizer

FOLDER = Path("runs/rounds")
FIRST = "dpo/dpo.pt"
WIDE = "standard,negatives,three_digits,products"
ROUNDS = {  # questions, their ranges, answers drawn to each
    "second round": {"n": 1200, "ranges": "standard", "samples": 8},
    "second round, wider ranges": {"n": 1200, "ranges": WIDE, "samples": 8},
}
GROUPS = ("held_out/additive", "held_out/multiplicative")
ASKED, DRAWS = 100, 16  # questions a group, and answers drawn to each
WIDER = (
    "results below zero: 17-36=?",
    "three digits: 317+219=?",
    "two digits by one: 47*8=?",
)


def one_round(name: str) -> GPT:
    """The model after a round on its predecessor's own answers."""
    folder = FOLDER / name.replace(" ", "_").replace(",", "")
    make_pairs.main(make_pairs.Config(from_=FIRST, out=f"{folder}/pairs.json", **ROUNDS[name]))
    policy, _ = train(large_run(base=FIRST, pairs=f"{folder}/pairs.json", out=str(folder)))
    return policy.eval()


def measure(model: GPT) -> dict:
    """Shares of right answers: greedy and drawn in the groups, greedy in the wider ranges."""
    tokenizer, shares = load_tokenizer(), {}
    groups = evaluate(answer_questions(model, tokenizer, sample_domain(1200, seed=1)))["groups"]
    shares |= {f"{describe_group(group)}, greedy": groups[group]["right"] for group in GROUPS}
    for group in GROUPS:
        questions = sample_questions(group, ASKED, seed=1)
        right = count_right(model, tokenizer, questions, DRAWS, seed=1, progress="drawing")
        shares[f"{describe_group(group)}, drawn"] = rate(sum(right) / DRAWS, len(questions))
    replies = ask_kinds(model, tokenizer, ASKED, seed=1)
    return shares | {f"{name}, greedy": outcomes(replies[name])["right"] for name in WIDER}


def main() -> None:
    results = {"first round": measure(load_model(FIRST)[0])}
    for name in ROUNDS:
        results[name] = measure(one_round(name))
    rows = [["questions", *results]]
    for asked in results["first round"]:
        rows.append([asked, *(percent(result[asked]) for result in results.values())])
    drawn = f"drawn: at temperature 1, {DRAWS} answers to each of {ASKED} questions"
    print(f"\n{hardware()}; {drawn}\n\n{markdown(rows)}")
    write_json(FOLDER / "rounds.json", results)


if __name__ == "__main__":
    main()
