"""Level files: reading, merging, listing, and clear messages."""

import pytest
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from ablate.config.levels import conf_dir, level_names, level_summary, read_level
from ablate.errors import ConfigError


def write(folder, name, text):
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{name}.yaml").write_text(text)


def test_names_are_sorted_numbers_by_value_and_hidden_files_left_out(tmp_path):
    for name in ("16", "2", "8", "_base", "wide"):
        write(tmp_path / "colour", name, "a: 1\n")
    assert level_names("colour", [tmp_path]) == ["2", "8", "16", "wide"]


def test_defaults_merge_in_order_and_self_decides_the_place(tmp_path):
    folder = tmp_path / "colour"
    write(folder, "_root", "a: 1\nb: {x: 1, y: 2}\n")
    write(folder, "_mid", "defaults: [_root, _self_]\na: 2\nc: 1e-3\n")
    write(folder, "last", "defaults: [_mid, _self_]\nb: {y: 3}\n")
    write(folder, "first", "defaults: [_self_, _mid]\na: 9\n")
    assert read_level("colour", "last", [tmp_path]) == {"a": 2, "b": {"x": 1, "y": 3}, "c": 1e-3}
    assert read_level("colour", "first", [tmp_path])["a"] == 2


def test_summary_is_the_first_comment_line(tmp_path):
    write(tmp_path / "colour", "red", "# @package colour\n# The warm one.\n# More.\na: 1\n")
    write(tmp_path / "colour", "blue", "a: 1\n")
    assert level_summary("colour", "red", [tmp_path]) == "The warm one."
    assert level_summary("colour", "blue", [tmp_path]) == ""


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: [1\n", "Cannot read"),
        ("- a\n- b\n", "keys and values"),
        ("defaults: [other]\n", "_self_"),
        ("defaults: [bad, _self_]\n", "in a circle"),
        ("defaults: [/other/place, _self_]\n", "same folder"),
        ("defaults: [gone, _self_]\n", "Unknown colour 'gone'"),
    ],
)
def test_damaged_files_are_named(tmp_path, text, message):
    write(tmp_path / "colour", "bad", text)
    with pytest.raises(ConfigError, match=message):
        read_level("colour", "bad", [tmp_path])


def test_unknown_group_and_level():
    with pytest.raises(ConfigError, match="no factor 'objektive'"):
        read_level("objektive", "dpo")
    with pytest.raises(ConfigError, match="Did you mean 'rpo_bwd'"):
        read_level("objective", "rpo_bdw")


def test_the_folder_of_the_caller_comes_first(tmp_path):
    write(tmp_path / "objective", "dpo", "mine: true\n")
    assert read_level("objective", "dpo", [tmp_path]) == {"mine": True}


@pytest.mark.parametrize("name", level_names("objective"))
def test_hydra_composes_the_same_values(name, tmp_path):
    write(tmp_path, "root", f"defaults:\n  - objective: {name}\n  - _self_\n")
    with initialize_config_dir(str(tmp_path), version_base="1.3"):
        composed = compose("root", [f"hydra.searchpath=[{conf_dir()}]"])
    assert OmegaConf.to_container(composed.objective) == read_level("objective", name)
