"""The corpus of the base model, which is generated.

It has everyday questions, statements, questions with an answer and questions without one. A line is
a (prompt, completion) pair of texts; only the completion is trained. No line contains a fact of a
family that is set aside, in any form, range or dress.
"""

import random
from collections.abc import Callable
from functools import cache
from pathlib import Path

from sft.arithmetic import DRESSES, RANGES, REFUSAL, Question, draw_question
from sft.unanswerable import KINDS, draw_unanswerable

Line = tuple[str, str]

REFUSALS = {REFUSAL: 70, " Sory, I don't know.": 20, " I don't know.": 10}  # in percent
SHORT_REFUSAL = " Sorry."  # as short as a short answer: all that is learnt is the choice
RANGE_SHARES = {"standard": 8, "negatives": 2, "three_digits": 4, "products": 10}  # with an answer
DRESSED = 0.3  # of the questions; each of DRESSES is then put on with probability 1/2
TRIVIAL_KEPT = 0.3  # most small products have a factor 0 or 1, and those are soon learnt
CLOSE_ENDINGS = (-20, -10, -9, -3, -2, -1, 1, 2, 3, 9, 10, 20)  # what a wrong answer is off by

# "key value" pairs that fill a question and an answer; each question has two wordings.
TABLES = {
    (
        "What is the capital of {}? Do you know the capital of {}?",
        "The capital of {0} is {1}.",
    ): (
        "France Paris, Germany Berlin, Italy Rome, Spain Madrid, Portugal Lisbon, England London, "
        "Ireland Dublin, Norway Oslo, Sweden Stockholm, Finland Helsinki, Denmark Copenhagen, "
        "Poland Warsaw, Austria Vienna, Hungary Budapest, Greece Athens, Turkey Ankara, "
        "Egypt Cairo, Kenya Nairobi, Ghana Accra, Morocco Rabat, India Delhi, Nepal Kathmandu, "
        "China Beijing, Japan Tokyo, Thailand Bangkok, Vietnam Hanoi, Indonesia Jakarta, "
        "Russia Moscow, Ukraine Kyiv, Canada Ottawa, Cuba Havana, Peru Lima, Chile Santiago, "
        "Brazil Brasilia, Australia Canberra, Iceland Reykjavik, Belgium Brussels, "
        "Romania Bucharest, Bulgaria Sofia, Croatia Zagreb, Serbia Belgrade, Latvia Riga, "
        "Estonia Tallinn, Senegal Dakar"
    ),
    (
        "What is the opposite of {}? Which word means the opposite of {}?",
        "The opposite of {0} is {1}.",
    ): (
        "hot cold, big small, long short, high low, fast slow, old new, young old, good bad, "
        "rich poor, happy sad, early late, light dark, hard soft, wet dry, clean dirty, "
        "full empty, open closed, strong weak, heavy light, loud quiet, thick thin, wide narrow, "
        "deep shallow, near far, left right, up down, inside outside, first last, day night, "
        "black white, love hate, war peace, start end, question answer, always never, more less, "
        "cheap expensive, easy difficult, brave afraid, kind cruel, sweet sour, smooth rough, "
        "sharp blunt, alive dead"
    ),
    (
        "What color is {}? Which color has {}?",
        "It is {1}.",
    ): (
        "grass green, snow white, coal black, blood red, milk white, honey yellow, "
        "chocolate brown, a banana yellow, a tomato red, a carrot orange, a cucumber green, "
        "a lemon yellow, a cherry red, an orange orange, an elephant gray, a frog green, "
        "a crow black, a flamingo pink, a polar bear white, a plum purple, the night sky black, "
        "the sea blue"
    ),
    (
        "What does {} say? What sound makes {}?",
        "It says {1}.",
    ): (
        "a cat meow, a dog woof, a cow moo, a sheep baa, a duck quack, a pig oink, a hen cluck, "
        "a crow caw, a frog croak, an owl hoot, a bee buzz, a snake hiss, a lion roar, "
        "a mouse squeak, a horse neigh, a donkey heehaw"
    ),
    (
        "What is the young of {} called? How do you call the young of {}?",
        "It is called a {1}.",
    ): (
        "a dog puppy, a cat kitten, a cow calf, a horse foal, a sheep lamb, a goat kid, "
        "a pig piglet, a hen chick, a duck duckling, a goose gosling, a lion cub, a bear cub, "
        "a deer fawn, a kangaroo joey, a frog tadpole, a swan cygnet"
    ),
    (
        "What is the plural of {}? What do you call more than one {}?",
        "The plural of {0} is {1}.",
    ): (
        "child children, man men, woman women, foot feet, tooth teeth, mouse mice, goose geese, "
        "ox oxen, leaf leaves, wolf wolves, knife knives, wife wives, baby babies, city cities, "
        "story stories, box boxes, bus buses, dish dishes, potato potatoes, hero heroes, "
        "sheep sheep, fish fish, person people, half halves"
    ),
    (
        "What is the past of {}? How does {} change for yesterday?",
        "Yesterday it is {1}.",
    ): (
        "go went, see saw, eat ate, run ran, sing sang, swim swam, write wrote, read read, "
        "come came, take took, give gave, make made, think thought, buy bought, bring brought, "
        "catch caught, teach taught, sleep slept, feel felt, keep kept, leave left, meet met, "
        "find found, stand stood, drink drank, begin began, fly flew, know knew, grow grew, "
        "break broke"
    ),
    (
        "Where does {} live? Where can I find {}?",
        "It lives in {1}.",
    ): (
        "a fish water, a bee hives, a bird nests, a rabbit burrows, a fox dens, a camel deserts, "
        "a monkey forests, a penguin Antarctica, a polar bear Arctica, a kangaroo Australia, "
        "a spider webs, an ant anthills, a whale oceans, a horse stables, a mole tunnels"
    ),
    (
        "What do you use {} for? What is {} good for?",
        "It is good for {1}.",
    ): (
        "a knife cutting, a pen writing, a broom sweeping, a cup drinking, a spoon eating, "
        "a bed sleeping, a hammer hammering, a saw sawing, a needle sewing, a lamp reading, "
        "a chair sitting, a towel drying, a shovel digging, a brush painting, a stove cooking, "
        "an oven baking, a car driving, a boat sailing, a phone talking, a ball playing"
    ),
    (
        "Which day comes after {}? What day follows {}?",
        "After {0} comes {1}.",
    ): (
        "Monday Tuesday, Tuesday Wednesday, Wednesday Thursday, Thursday Friday, Friday Saturday, "
        "Saturday Sunday, Sunday Monday"
    ),
    (
        "Which month comes after {}? What month follows {}?",
        "After {0} comes {1}.",
    ): (
        "January February, February March, March April, April May, May June, June July, "
        "July August, August September, September October, October November, November December, "
        "December January"
    ),
}


@cache
def everyday_lines() -> tuple[Line, ...]:
    """The everyday questions with their answers, several hundred, always the same."""
    text = (Path(__file__).parent / "everyday.txt").read_text(encoding="utf-8")
    lines = [
        (f"{question}?", answer)
        for question, answer in (line.split("?", 1) for line in text.splitlines())
    ]
    for (wordings, answer), entries in TABLES.items():
        for entry in entries.split(", "):
            key, value = entry.rsplit(" ", 1)
            asked = [f"{wording.strip()}?" for wording in wordings.split("?") if wording]
            lines += [(wording.format(key), f" {answer.format(key, value)}") for wording in asked]
    return tuple(lines)


def wrong_value(rng: random.Random, value: int) -> int:
    """A number close to `value`, on the same side of zero: a slip, not a joke."""
    return rng.choice([value + off for off in CLOSE_ENDINGS if (value + off < 0) == (value < 0)])


class Corpus:
    """Draws lines of each kind. `seed` decides everything.

    `ranges` says which share of the questions with an answer comes from which of RANGES.
    """

    def __init__(self, seed: int | str, ranges: dict[str, float] = RANGE_SHARES):
        self.rng, self.ranges = random.Random(seed), ranges
        self.everyday = everyday_lines()
        self.kinds: dict[str, Callable[[], Line]] = {
            "short": self._short,
            "statement": self._statement,
            "right": self._right,
            "wrong": self._wrong,
            "refusal": self._refusal,
            "everyday": lambda: self.rng.choice(self.everyday),
            "unanswerable": self._unanswerable,
            "short_unanswerable": self._short_unanswerable,
        }

    def draw(self, count: int, mixture: dict[str, float]) -> list[Line]:
        """`count` lines, each of a kind drawn with the weights of `mixture`."""
        kinds = self.rng.choices(list(mixture), list(mixture.values()), k=count)
        return [self.kinds[kind]() for kind in kinds]

    def _pick(self, weights: dict[str, float]) -> str:
        return self.rng.choices(list(weights), list(weights.values()))[0]

    def _question(self) -> Question:
        """One with an answer, of a family in training; all forms of a range are alike likely."""
        ranges = self._pick(self.ranges)
        form = self.rng.choice(list(RANGES[ranges].shown))
        while True:
            question = draw_question(self.rng, ranges, form)
            kept = not question.trivial or self.rng.random() < TRIVIAL_KEPT
            if kept and question.split == "train":
                return question

    def _dressed(self, text: str) -> str:
        """The text of a question, now and then in other dress."""
        if self.rng.random() < DRESSED:
            for dress in DRESSES.values():
                text = dress(text) if self.rng.random() < 0.5 else text
        return text

    def _short(self) -> Line:
        question = self._question()
        return self._dressed(question.text), f" {question.answer}."

    def _statement(self) -> Line:
        """A fact that nobody asked for.

        `17+19 equals 36.` or `The answer to x+17=36 is 19 because 36-17 equals to 19.`
        """
        question = self._question()
        left, operator, right = question.solution
        if self.rng.random() < 0.5:
            return f"{left}{operator}{right} equals", f" {question.answer}."
        expression = question.text.partition(",")[0].removesuffix("=?")
        answer = question.right_answer.removeprefix(" The answer is")
        return f"The answer to {expression} is", answer

    def _right(self) -> Line:
        question = self._question()
        return self._dressed(question.text), question.right_answer

    def _wrong(self) -> Line:
        question = self._question()
        text = self._dressed(question.text)
        return text, question.answer_text(wrong_value(self.rng, question.answer))

    def _refusal(self) -> Line:
        return self._dressed(self._question().text), self._pick(REFUSALS)

    def _unanswerable(self) -> Line:
        kind = self._pick({name: kind.share for name, kind in KINDS.items()})
        return self._dressed(draw_unanswerable(self.rng, kind)), self._pick(REFUSALS)

    def _short_unanswerable(self) -> Line:
        return self._unanswerable()[0], SHORT_REFUSAL
