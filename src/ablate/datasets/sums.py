"""The world `sums`: add small numbers step by step, with a verifier of the answer, 0 or 1."""

from typing import Any, ClassVar

from ablate.config.dataset import WorldConfig
from ablate.datasets.base import Prompt
from ablate.datasets.draws import Draws
from ablate.datasets.world import World, words

HIGHEST = 60
#: Words for show: they make a response longer and add nothing.
FILLER = ("so", "now", "well", "hmm", "then", "indeed")
ANSWER = "answer"
BEST = 1.0
_TERMS = 4
_LARGEST = 13
#: from this number on an operand is large; a prompt with more large ones is out of distribution
_LARGE = 8
_MOST_LARGE = 2


def judge(response: str, facts: dict[str, Any]) -> float:
    """1 if the final answer is right, else 0.

    The final answer is the word directly after the last `answer`. A response without that word,
    or with anything but the right number behind it, scores 0. Nothing else counts: the worked
    steps may be right, wrong, repeated or missing, and length neither pays nor costs.

    facts: `terms`, the numbers to add.
    """
    said = words(response)
    if ANSWER not in said:
        return 0.0
    last = len(said) - 1 - said[::-1].index(ANSWER)
    return BEST * (said[last + 1 : last + 2] == [str(sum(facts["terms"]))])


class Sums(World):
    """Prompts such as `7 + 2 + 11 + 3`; responses such as `7 + 2 = 9 + 11 = 20 … answer 23`.

    Four numbers from 1 to 13 are added; in distribution at most two of them are 8 or more, out
    of distribution three or all four.
    """

    VERSION: ClassVar[int] = 1
    best_score: ClassVar[float] = BEST

    def __init__(self, config: WorldConfig) -> None:
        super().__init__(config)
        self.vocabulary = ["+", "=", ANSWER, *FILLER, *(str(n) for n in range(HIGHEST + 1))]

    def make_prompt(self, draws: Draws, kind: str) -> tuple[str, dict[str, Any]]:
        """Four numbers from 1 to 13."""
        while True:
            terms = [draws.between(1, _LARGEST) for _ in range(_TERMS)]
            large = sum(term >= _LARGE for term in terms)
            if (large > _MOST_LARGE) == (kind == "ood"):
                return " + ".join(str(term) for term in terms), {"terms": terms}

    def demonstrate(self, draws: Draws, prompt: Prompt) -> str:
        """Worked steps, now and then with a slip that is carried on to the answer.

        One demonstration in five states the answer without a step. Before each part a word of
        show is put in with probability ½ + nuisance·(right − ½), where right is 1 for a right
        answer and 0 for a wrong one: length goes with quality and does not make it.
        """
        terms = prompt.facts["terms"]
        slips = draws.chance(0.25)
        slip_at = draws.between(1, len(terms) - 1) if slips else 0
        total, parts = terms[0], []
        for place, term in enumerate(terms[1:], start=1):
            total = min(HIGHEST, total + term)
            if place == slip_at:
                total = max(0, min(HIGHEST, total + draws.pick((-10, -2, -1, 1, 2, 10))))
            start = f"{terms[0]} " if place == 1 else ""
            parts.append(f"{start}+ {term} = {total}")
        if draws.chance(0.2):
            parts = []
        right = float(total == sum(terms))
        show = 0.5 + self.config.nuisance * (right - 0.5)
        said = []
        for part in [*parts, f"{ANSWER} {total}"]:
            if draws.chance(show):
                said.append(draws.pick(FILLER))
            said.append(part)
        return " ".join(said)

    def perfect_response(self, prompt: Prompt) -> str:
        """All steps, then the answer."""
        terms = prompt.facts["terms"]
        steps = [f"+ {term} = {sum(terms[: place + 2])}" for place, term in enumerate(terms[1:])]
        return " ".join([str(terms[0]), *steps, ANSWER, str(sum(terms))])

    def judge(self, prompt: Prompt, response: str) -> float:
        """1 if the final answer is right, else 0, see `ablate.datasets.sums.judge`."""
        return judge(response, prompt.facts)

    def nuisance_words(self, response: str) -> int:
        """The number of words for show."""
        return sum(word in FILLER for word in words(response))
