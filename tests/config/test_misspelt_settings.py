"""A setting that there is not: which is meant."""

import pytest

from ablate.cli.run import expand_words
from ablate.config.compose import compose
from ablate.errors import ConfigError


@pytest.mark.parametrize(
    ("word", "meant"),
    [
        ("objective.bta=3", "objective.beta"),
        ("trainng.lr=3", "training.lr"),
        ("objectiv=dpo", "objective"),
        ("training.lrr=1", "training.lr"),
        ("seeed=3", "seed"),
        ("runtime.thread=1", "runtime.threads"),
        ("collection.num_sample=2", "collection.num_samples"),
    ],
)
def test_the_closest_setting_is_named(word: str, meant: str) -> None:
    typed = word.partition("=")[0]
    with pytest.raises(ConfigError) as caught:
        compose([word])
    assert str(caught.value).startswith(f"there is no setting '{typed}'. Did you mean '{meant}'")
    with pytest.raises(ConfigError, match=rf"'{typed}'\. Did you mean '{meant}'"):
        expand_words([word, "objective=dpo,ipo", "-m"] if "objectiv=" not in word else [word])


def test_the_end_of_a_path_names_all_that_end_so() -> None:
    with pytest.raises(ConfigError) as caught:
        compose(["lr=1"])
    assert "'training.lr'" in str(caught.value)
    assert "'base_model.sft.lr'" in str(caught.value)


def test_nothing_is_guessed_where_nothing_is_near() -> None:
    with pytest.raises(ConfigError) as caught:
        compose(["zzzzz=3"])
    assert "Did you mean" not in str(caught.value)
