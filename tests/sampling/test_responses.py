"""What back ends may hand back, and the statistics of a pool."""

import pytest

from ablate.errors import ModelError
from ablate.sampling.responses import SampledResponse, as_response, in_order, statistics

PROMPTS = [("a", [1]), ("b", [2]), ("c", [3])]


def drawn(*keys):
    return [SampledResponse(name, index, [7], False) for name, index in keys]


def test_a_response_ends_with_its_first_stop_token():
    assert as_response("a", 0, [5, 6, 2, 0, 0], [2, 9]).ids == [5, 6, 2]
    assert as_response("a", 0, [5, 9, 2], [2, 9]).ids == [5, 9]
    assert as_response("a", 0, [2], [2]) == SampledResponse("a", 0, [2], True)
    assert as_response("a", 0, [5, 6], [2]) == SampledResponse("a", 0, [5, 6], False)
    with pytest.raises(ModelError, match="no token for prompt 'a'"):
        as_response("a", 0, [], [2])


def test_responses_come_back_in_the_order_of_the_prompts():
    shuffled = drawn(("c", 4), ("a", 5), ("b", 4), ("c", 5), ("a", 4), ("b", 5))
    ordered = in_order(shuffled, PROMPTS, range(4, 6), "any")
    assert [(r.prompt_id, r.index) for r in ordered] == [
        (name, index) for name in "abc" for index in (4, 5)
    ]


def test_a_silent_prompt_is_told_with_the_sampler_and_the_counts():
    some = drawn(("a", 0), ("a", 1), ("c", 0))
    with pytest.raises(ModelError, match=r"sampler=odd returned 3 of 6.*1 prompts.*'b'"):
        in_order(some, PROMPTS, range(2), "odd")
    with pytest.raises(ModelError, match="returned 2 responses where 1"):
        in_order(drawn(("a", 0), ("a", 0)), PROMPTS[:1], range(1), "odd")


def test_statistics_of_a_pool_counted_by_hand():
    names = ["a", "a", "a", "b", "b", "b"]
    responses = [[5, 2], [5, 2], [2], [5, 2], [6, 6, 6], [9]]
    finished = [True, True, True, True, False, True]
    found = statistics(names, responses, finished, [2, 9])
    assert found == {
        "prompts": 2,
        "responses": 6,
        "tokens": 11,
        "mean_tokens": 11 / 6,
        "truncated": 1 / 6,
        "empty": 2 / 6,
        "duplicates_per_prompt": 1 / 2,
    }
