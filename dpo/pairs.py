"""Check files of preference pairs: `python -m dpo.pairs FILE`.

Every problem at once, each with its line and its remedy. --report says what the file holds and what
a run from the base can do with it, --figure=FILE draws what it holds, --convert=FILE writes it in
another format.
"""

from dataclasses import dataclass

from configurator import run_program
from dpo.data.pair import Pair, PairsError, PairsFile
from dpo.data.pair_file import load_pairs, spread, write_pairs
from dpo.data.profile import describe_profile, profile_pairs
from dpo.evaluation.forecast import describe_forecast, score_pairs
from dpo.plots.pairs import pairs_figure
from dpo.plots.style import check_picture, save_figure
from sft.checkpoint.weights import load_model
from sft.device import best_device
from sft.tokenizer import load_tokenizer

FORMATS = ("hf", "assignment")
MOST_SCORED = 512  # pairs of a file that the base scores: some seconds


@dataclass
class Config:
    """python -m dpo.pairs FILE ...: check files of pairs; exit code 1 if one cannot be used."""

    files: tuple[str, ...] = ("dpo/pos_neg_pairs.json",)  # files to check
    report: bool = False  # also say what the files hold, and what the base makes of it
    base: str = "sft/gpt.pt"  # the model that a run would start from, for the report
    figure: str = ""  # also draw what the file holds into this picture
    convert: str = ""  # also write the pairs to this file: a list, or as .jsonl an object a line
    format: str = "hf"  # of that file: hf (prompt, chosen, rejected) or assignment
    max_length: int = 256  # longest prompt and answer, in characters


def main(config: Config) -> None:
    """Check all files; PairsError with what is to mend in any of them."""
    if config.format not in FORMATS:
        raise ValueError(f"format is {config.format!r}; it must be one of {', '.join(FORMATS)}")
    if (config.convert or config.figure) and len(config.files) > 1:
        raise ValueError("--convert and --figure take the pairs of one file; name one")
    if config.figure:
        check_picture(config.figure)
    tokenizer, wrong = load_tokenizer(), []
    for path in config.files:
        try:
            file = load_pairs(path, tokenizer, config.max_length)
        except PairsError as error:
            wrong.append(str(error))  # the other files are checked nevertheless
            continue
        _describe(path, file, config)
    if wrong:
        raise PairsError("\n".join(wrong))


def _describe(path: str, file: PairsFile, config: Config) -> None:
    """Print, draw and write what the settings ask for."""
    profile = profile_pairs(file.pairs)
    forms = sum(map(bool, profile.forms.values()))
    asked = f"{len(profile.questions):,} of them arithmetic, in {forms} forms"
    print(f"{path}: {profile.pairs:,} pairs, {asked}")
    for warning in file.warnings:
        print(f"warning: {warning}")
    if config.report:
        print(describe_profile(profile))
        print(_forecast(file.pairs, config.base))
    if config.convert:
        write_pairs(config.convert, file.pairs, config.format)
        print(f"wrote {len(file.pairs):,} pairs to {config.convert}")
    if config.figure:
        save_figure(pairs_figure(profile), config.figure)


def _forecast(pairs: list[Pair], base: str) -> str:
    """What the base makes of the pairs; of a large file, of some that are spread over it."""
    model, tokenizer = load_model(base, best_device())
    asked = spread(pairs, MOST_SCORED)
    scored = score_pairs(model, tokenizer, asked, progress="the base reads")
    some = f", of {len(asked):,} pairs spread over the file" if len(asked) < len(pairs) else ""
    return f"what {base} makes of them{some}:\n{describe_forecast(model, tokenizer, scored)}"


if __name__ == "__main__":
    run_program(main, Config())
