"""Which settings of a recorded run are told: those that are not what its levels say."""

from pathlib import Path
from typing import Any

import pytest

from ablate.cli.settings import ASKED, changed, levels_of
from ablate.config.compose import compose


def frozen(*words: str, search: tuple[str, ...] = ()) -> dict[str, Any]:
    return dict(compose(words, search).model_dump(mode="json"))


@pytest.mark.parametrize(
    "words",
    [
        [],
        ["objective=simpo", "num_responses=2", "reward=labels"],
        ["collection=online", "dataset=sums", "base_model=small"],
        ["reward=ensemble", "training=online", "judge=http", "judge.url=http://a", "judge.model=m"],
    ],
)
def test_another_level_is_no_changed_setting(words: list[str]) -> None:
    config = frozen(*words)
    # what a level leaves to the user is told as such
    given = dict(word.split("=") for word in words if "." in word)
    assert changed(config) == {path: (value, ASKED) for path, value in given.items()}
    for word in words:
        factor, _, level = word.partition("=")
        if "." not in factor:
            assert levels_of(config)[factor] == level


def test_changed_settings_are_told_with_their_defaults() -> None:
    config = frozen("objective=ipo", "training.lr=2e-5", "num_responses=6", "seed=3",
                    "dataset.pool.num_responses=32")  # fmt: skip
    usual = frozen("objective=ipo")
    assert changed(config) == {
        "num_responses.k": (6, 4),
        "dataset.pool.num_responses": (32, usual["dataset"]["pool"]["num_responses"]),
        "training.lr": (2e-5, usual["training"]["lr"]),
        "seed.value": (3, 0),
    }


def test_a_setting_that_must_be_given_is_told(tmp_path: Path) -> None:
    config = frozen("dataset=local", f"dataset.path={tmp_path}", "reward=labels")
    assert changed(config) == {"dataset.path": (str(tmp_path), ASKED)}


def test_a_level_without_a_file_here_is_told_whole(tmp_path: Path) -> None:
    (tmp_path / "training").mkdir()
    (tmp_path / "training" / "mine.yaml").write_text(
        "# Mine.\ndefaults: [default, _self_]\nname: mine\nlr: 0.001\n"
    )
    config = frozen("training=mine", search=(str(tmp_path),))
    found = changed(config)
    assert found is not None
    assert found["training.lr"] == (0.001, None)
    assert {path.split(".")[0] for path in found} == {"training"}
    assert len(found) > 5


def test_a_run_that_no_level_file_fits_says_so() -> None:
    config = frozen()
    # this level wants what the run has not
    config["judge"]["name"] = "http"
    assert changed(config) is None
