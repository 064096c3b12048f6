"""The verifier of `sums` by hand, and what its prompts and demonstrations are like."""

import statistics

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ablate.datasets.sums import FILLER, Sums, judge

FACTS = {"terms": [7, 2, 11, 3]}


@pytest.mark.parametrize(
    ("response", "score"),
    [
        ("7 + 2 = 9 + 11 = 20 + 3 = 23 answer 23", 1),
        ("answer 23", 1),
        ("so 7 + 2 = 50 hmm answer 23 indeed", 1),
        ("answer 22 well answer 23", 1),
        ("answer 23 well answer 22", 0),
        ("7 + 2 = 9 + 11 = 20 + 3 = 23", 0),
        ("answer", 0),
        ("answer so 23", 0),
        ("answer 2 3", 0),
        ("", 0),
        ("Answer: 23.", 1),
    ],
)
def test_only_the_last_answer_counts(response: str, score: float) -> None:
    assert judge(response, FACTS) == score


@given(st.lists(st.sampled_from([*FILLER, "=", "+", "5"]), max_size=10), st.integers(0, 60))
def test_what_stands_before_the_answer_changes_nothing(before: list[str], stated: int) -> None:
    said = " ".join([*before, "answer", str(stated)])
    assert judge(said, FACTS) == float(stated == 23)


def test_large_operands_are_out_of_distribution(sums: Sums) -> None:
    def large(split: str) -> set[int]:
        return {sum(term >= 8 for term in p.facts["terms"]) for p in sums.prompts(split)}

    assert large("test") == {0, 1, 2}
    assert large("ood") == {3, 4}


def test_prompts_read_as_their_terms(sums: Sums) -> None:
    for prompt in sums.prompts("train"):
        assert [int(word) for word in prompt.text.split(" + ")] == prompt.facts["terms"]


def test_some_demonstrations_are_wrong_and_wrong_ones_are_wrong_in_their_steps(sums: Sums) -> None:
    right = []
    for prompt, text in sums.demonstrations():
        right.append(sums.judge(prompt, text))
        said = [word for word in text.split() if word not in FILLER]
        if "=" not in said:
            continue
        totals = [int(said[i + 1]) for i, word in enumerate(said) if word == "="]
        assert said[-2:] == ["answer", str(totals[-1])]
        true = [sum(prompt.facts["terms"][: n + 2]) for n in range(len(totals))]
        assert (totals == true) == bool(right[-1])
    assert 0.65 < statistics.mean(right) < 0.85


def test_working_is_shown_more_often_than_not(sums: Sums) -> None:
    shown = statistics.mean("=" in text for _, text in sums.demonstrations())
    assert 0.7 < shown < 0.9
