"""The judge of `lists` against examples worked by hand, and what must hold for any response."""

import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ablate.datasets.lists import APTNESS, CATEGORIES, FREE_POLITE, ITEMS, POLITE, Lists, judge

ANY = {"count": 3, "category": "city", "order": "any", "required": [], "forbidden": ["rome"]}
SORTED = {**ANY, "order": "sorted"}
WITH = {**SORTED, "forbidden": [], "required": ["oslo", "lima"]}
#: aptness by rank, written out: paris, london, tokyo are the best cities
FIRST, SECOND, THIRD, SIXTH = 1.0, 0.9, 0.82, 0.66384


def test_no_word_has_two_meanings() -> None:
    names = [*CATEGORIES, *(i for items in CATEGORIES.values() for i in items), *POLITE]
    assert len(names) == len(set(names))


def test_aptness_falls_from_the_best_known_item_towards_one_half() -> None:
    assert APTNESS["paris"] == FIRST
    assert APTNESS["london"] == pytest.approx(SECOND)
    assert APTNESS["tokyo"] == pytest.approx(THIRD)
    assert APTNESS["cairo"] == pytest.approx(SIXTH)
    assert all(0.5 < value <= 1 for value in APTNESS.values())


BEST_THREE = FIRST + SECOND + THIRD


@pytest.mark.parametrize(
    ("response", "score"),
    [
        ("paris london tokyo", 10),
        ("tokyo paris london", 10),
        ("paris london", 10 * (FIRST + SECOND) / BEST_THREE),
        ("paris london cairo", 10 * (FIRST + SECOND + SIXTH) / BEST_THREE),
        # a repeat, a forbidden city, a fruit, a word of the prompt: nothing gained, one point lost
        ("paris london london", 10 * (FIRST + SECOND) / BEST_THREE - 1),
        ("paris london rome", 10 * (FIRST + SECOND) / BEST_THREE - 1),
        ("paris london apple", 10 * (FIRST + SECOND) / BEST_THREE - 1),
        ("paris london list", 10 * (FIRST + SECOND) / BEST_THREE - 1),
        # one too many: the least apt three count, and the fourth costs a point
        ("paris london tokyo cairo", 10 * (SECOND + THIRD + SIXTH) / BEST_THREE - 1),
        ("apple apple apple", 0),
        ("", 0),
        ("Paris, London, Tokyo.", 10),
    ],
)
def test_content_and_faults_by_hand(response: str, score: float) -> None:
    assert judge(response, ANY) == pytest.approx(score)


@pytest.mark.parametrize(
    ("response", "order_share"),
    [("london paris tokyo", 1.0), ("paris london tokyo", 0.5), ("tokyo paris london", 0.0)],
)
def test_order_counts_three_of_eight(response: str, order_share: float) -> None:
    assert judge(response, SORTED) == pytest.approx(10 * (5 + 3 * order_share) / 8)
    backwards = " ".join(reversed(response.split()))
    assert judge(backwards, {**SORTED, "order": "reversed"}) == judge(response, SORTED)


def test_order_of_a_short_list_is_measured_against_the_full_one() -> None:
    # one of the two neighbours that three items would have
    content = (FIRST + SECOND) / BEST_THREE
    assert judge("london paris", SORTED) == pytest.approx(10 * (5 * content + 3 * 0.5) / 8)


def test_required_items_count_two_of_ten_and_apter_ones_do_not_make_up_for_them() -> None:
    assert judge("lima oslo paris", WITH) == 10
    # content is capped at 1, one of two required items is there
    assert judge("london oslo paris", WITH) == pytest.approx(10 * (5 + 3 + 2 * 0.5) / 10)
    assert judge("london paris tokyo", WITH) == pytest.approx(10 * (5 + 3) / 10)


WORDS = st.lists(st.sampled_from([*ITEMS, "list", "4", "sorted"]), max_size=8)


@given(WORDS, st.lists(st.sampled_from(POLITE), max_size=FREE_POLITE), st.data())
def test_polite_words_neither_pay_nor_cost(
    listed: list[str], polite: list[str], data: st.DataObject
) -> None:
    mixed = list(listed)
    for word in polite:
        mixed.insert(data.draw(st.integers(0, len(mixed))), word)
    for facts in (ANY, SORTED, WITH):
        assert judge(" ".join(mixed), facts) == judge(" ".join(listed), facts)


def test_polite_words_beyond_the_limit_are_padding() -> None:
    response = "paris london tokyo" + " thanks" * FREE_POLITE
    assert judge(response, ANY) == 10
    assert judge(response + " gladly sure", ANY) == 8


@given(st.permutations(["paris", "oslo", "rome", "apple", "oslo", "tokyo", "lima"]))
def test_without_an_order_the_arrangement_does_not_matter(listed: list[str]) -> None:
    assert judge(" ".join(listed), ANY) == judge("paris oslo rome apple oslo tokyo lima", ANY)


@given(WORDS, st.data())
def test_a_repeat_lowers_the_score(listed: list[str], data: st.DataObject) -> None:
    for facts in (ANY, SORTED, WITH):
        before = judge(" ".join(listed), facts)
        for place, word in enumerate(listed):
            at = data.draw(st.integers(place + 1, len(listed)))
            after = judge(" ".join([*listed[:at], word, *listed[at:]]), facts)
            assert after == pytest.approx(max(0.0, before - 1)) if before >= 1 else after <= before


@given(WORDS, st.sampled_from([ANY, SORTED, WITH]))
def test_scores_lie_between_nought_and_ten(listed: list[str], facts: dict[str, object]) -> None:
    assert 0 <= judge(" ".join(listed), facts) <= 10


def test_demonstrations_are_of_mixed_quality(lists: Lists) -> None:
    scores = sorted(lists.judge(prompt, text) for prompt, text in lists.demonstrations())
    tenth = len(scores) // 10
    assert scores[tenth] < 5 < 9 < scores[-tenth]


def test_in_distribution_prompts_bring_or_leave_out_and_the_others_do_both(lists: Lists) -> None:
    for prompt in lists.prompts("test"):
        assert bool(prompt.facts["required"]) != bool(prompt.facts["forbidden"])
    for prompt in lists.prompts("ood"):
        assert prompt.facts["required"]
        assert prompt.facts["forbidden"]


def test_the_examples_of_the_documentation_are_true() -> None:
    page = Path(__file__).resolve().parents[2] / "docs" / "worlds.md"
    facts = {**SORTED, "forbidden": ["rome"]}
    rows = re.findall(r"^\| `([a-z ]+)` \| .* \| ([\d.]+) \|$", page.read_text(), re.MULTILINE)
    # rows of other tables do not hold three cities
    examples = [(text, float(score)) for text, score in rows if len(text.split()) == 3]
    assert len(examples) == 5
    for text, score in examples:
        assert judge(text, facts) == pytest.approx(score, abs=0.006)
