"""The message about a metric that there is not."""

import re

import pytest

from ablate.metrics.registry import unknown

KNOWN = [
    *(f"{name}/{split}" for name in ("reward", "win_rate", "kl") for split in ("test", "ood")),
    "chosen_change/train", "tokens_trained", "device_seconds", "reward.scale",
    *(f"reward.learnt.{model}.held_out.{kind}.{name}" for model in ("m_0", "m_1")
      for kind in ("id", "ood") for name in ("accuracy", "pearson")),
]  # fmt: skip


@pytest.mark.parametrize(
    ("given", "meant"),
    [
        ("reward/tset", "reward/test"),
        ("winrate/ood", "win_rate/ood"),
        ("rewrd", "reward"),
        ("tokens", "tokens_trained"),
        ("reward.scal", "reward.scale"),
    ],
)
def test_the_closest_comes_first(given: str, meant: str) -> None:
    first = str(unknown(given, KNOWN)).splitlines()[0]
    assert first.startswith(f"there is no metric '{given}'. Did you mean '{meant}'")


def test_every_metric_can_be_read_from_it_and_each_name_stands_there_once() -> None:
    message = str(unknown("zzzzzz", KNOWN))
    split, whole, reward = message.splitlines()[1:]
    splits = re.search(r"\(splits: (.*?)\)", split)
    assert splits is not None
    assert splits[1].split(", ") == ["ood", "test", "train"]
    assert split.rpartition(": ")[2].split(", ") == ["chosen_change", "kl", "reward", "win_rate"]
    assert whole == "of a whole run: device_seconds, tokens_trained"
    assert expanded(reward.partition(": ")[2]) == {name for name in KNOWN if "." in name}
    assert message.count("accuracy") == 2, "once for each learnt reward"


def expanded(text: str) -> set[str]:
    """`a.(b, c).d` is a.b.d and a.c.d."""
    found: set[str] = set()
    for term in text.split("; "):
        names = [""]
        for part in re.findall(r"\([^)]*\)|[^.()]+", term):
            names = [f"{n}.{p}" for n in names for p in part.strip("()").split(", ")]
        found |= {name.removeprefix(".") for name in names}
    return found
