"""Main effects against statsmodels' ANOVA and REML, and by coverage; the figure and its data."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import statsmodels.formula.api as smf
from statsmodels.stats.anova import anova_lm

from ablate.analysis import effects
from ablate.analysis.figures import which_choice_matters
from ablate.analysis.lack_of_fit import assumed
from ablate.errors import DataError


def grid(seed: int = 0, seeds: int = 4, sd: float = 0.3, effect: float = 0.5) -> pd.DataFrame:
    rng = np.random.default_rng(seed)
    block = rng.normal(0, 1, seeds)
    return pd.DataFrame(
        [
            {"objective": o, "k": k, "block": s,
             "value": effect * (o == "x") + 0.2 * (k == 4) + block[s] + rng.normal(0, sd)}
            for o in "xyz" for k in (2, 4) for s in range(seeds)
        ]
    )  # fmt: skip


def test_f_tests_are_those_of_the_blocked_anova() -> None:
    runs = grid()
    table = anova_lm(smf.ols("value ~ C(objective) * C(k) + C(block)", data=runs).fit(), typ=2)
    found = effects(runs, ["objective", "k"]).terms.set_index("term")
    for term, theirs in {
        "objective": "C(objective)", "k": "C(k)", "objective × k": "C(objective):C(k)",
    }.items():  # fmt: skip
        assert found.loc[term, "F"] == pytest.approx(table.loc[theirs, "F"])
        assert found.loc[term, "p"] == pytest.approx(table.loc[theirs, "PR(>F)"])


def test_on_a_full_grid_the_variances_are_those_of_reml() -> None:
    runs = grid(seed=3)
    theirs = smf.mixedlm("value ~ C(objective) * C(k)", data=runs, groups=runs["block"]).fit()
    found = effects(runs, ["objective", "k"])
    assert found.sd_seed**2 == pytest.approx(theirs.scale, rel=1e-3)
    assert found.sd_block**2 == pytest.approx(float(theirs.cov_re.iloc[0, 0]), rel=1e-2)


def test_levels_are_marginal_means_around_their_mean() -> None:
    runs = grid(seed=1)
    levels = effects(runs, ["objective", "k"]).levels.set_index(["factor", "level"])
    means = runs.groupby("objective")["value"].mean()
    for level, mean in means.items():
        assert levels.loc[("objective", level), "effect"] == pytest.approx(mean - means.mean())


def test_a_factor_that_seeds_do_not_cross_is_tested_against_blocks() -> None:
    """Two base models share no SFT policy, so their difference carries the blocks' spread."""
    rng = np.random.default_rng(5)
    rows = []
    for model in "pq":
        for s in range(4):
            block = rng.normal(0, 1)
            rows += [
                {"model": model, "objective": o, "block": f"{model}{s}",
                 "value": block + rng.normal(0, 0.1)}
                for o in "xyz"
            ]  # fmt: skip
    runs = pd.DataFrame(rows)
    found = effects(runs, ["model", "objective"]).terms.set_index("term")
    means = runs.groupby(["model", "block"])["value"].mean()
    from scipy import stats

    t, p = stats.ttest_ind(means["p"], means["q"])
    assert found.loc["model", "F"] == pytest.approx(t**2, rel=1e-6)
    assert found.loc["model", "p"] == pytest.approx(p, abs=0.01)
    assert found.loc["objective", "error_df"] > found.loc["model", "error_df"]


def with_prompts(seed: int, prompts: int, interaction: float) -> tuple[pd.DataFrame, pd.DataFrame]:
    rng = np.random.default_rng(seed)
    runs = grid(seed, seeds=3, effect=0.0)
    arm = runs.groupby(["objective", "k"], sort=False).ngroup().to_numpy()
    scores = (
        runs["value"].to_numpy()[:, None] + rng.normal(0, 1, prompts)[None, :]
        + rng.normal(0, interaction, (arm.max() + 1, prompts))[arm]
        + rng.normal(0, 1, (len(runs), prompts))
    )  # fmt: skip
    runs = runs.assign(value=scores.mean(axis=1))
    answers = runs.drop(columns="value").loc[runs.index.repeat(prompts)]
    names = np.tile(np.arange(prompts), len(runs))
    return runs, answers.assign(prompt_id=names, value=scores.ravel())


def test_the_choice_of_prompts_widens_what_depends_on_it() -> None:
    runs, answers = with_prompts(2, 40, interaction=3.0)
    fixed = effects(runs, ["objective", "k"]).terms
    random = effects(runs, ["objective", "k"], answers)
    assert random.sd_prompt == pytest.approx(3 / np.sqrt(40), rel=0.25)
    assert (random.terms["F"] < fixed["F"]).all()


def test_null_effects_are_found_as_rarely_as_promised_prompts_and_seeds_random() -> None:
    found = 0
    for seed in range(100):
        runs, answers = with_prompts(seed, 25, interaction=2.0)
        found += (
            effects(runs, ["objective", "k"], answers).terms.set_index("term").loc["objective", "p"]
            <= 0.05
        )
    assert found <= 10


def test_the_interval_of_a_size_covers_it() -> None:
    # x stands 0.5 above the other two: the level effects are 1/3, -1/6, -1/6
    truth = np.sqrt((1 / 9 + 2 / 36) / 3)
    hits = 0
    for seed in range(150):
        terms = effects(grid(seed), ["objective", "k"]).terms.set_index("term")
        hits += terms.loc["objective", "size_low"] <= truth <= terms.loc["objective", "size_high"]
    assert hits / 150 == pytest.approx(0.95, abs=0.05)


def test_what_the_grid_cannot_tell_is_named() -> None:
    runs = grid()
    runs = runs[~((runs["objective"] == "z") & (runs["k"] == 4))]
    assert effects(runs, ["objective", "k"]).left_out == ["objective × k"]
    with pytest.raises(DataError, match="one level"):
        effects(runs[runs["k"] == 2], ["objective", "k"])
    with pytest.raises(DataError, match="two seeds"):
        effects(grid(seeds=1), ["objective", "k"])
    both = grid().assign(shadow=lambda frame: frame["k"] * 10)
    with pytest.raises(DataError, match="shadow"):
        effects(both, ["k", "shadow"])


def test_the_figure_is_vector_and_png_and_holds_its_numbers(tmp_path: Path) -> None:
    found = effects(grid(), ["objective", "k"])
    figure = which_choice_matters(found, "reward/test")
    written = figure.save(tmp_path / "a" / "choices")
    assert {path.suffix for path in written} == {".svg", ".pdf", ".png", ".csv"}
    assert (tmp_path / "a" / "choices.svg").read_text().count("objective x") == 1
    assert (tmp_path / "a" / "choices.png").read_bytes()[:4] == b"\x89PNG"
    shown = pd.read_csv(tmp_path / "a" / "choices.csv")
    assert shown.loc[shown["panel"] == "levels", "effect"].tolist() == pytest.approx(
        found.levels["effect"].tolist()
    )
    first = (tmp_path / "a" / "choices.svg").read_bytes()
    which_choice_matters(found, "reward/test").save(tmp_path / "b")
    assert (tmp_path / "b.svg").read_bytes() == first


def test_lack_of_fit_is_the_contrast_that_the_grid_leaves_over() -> None:
    """Five of six cells: one difference of differences is left, and main effects take it as 0."""
    for shift, doubted in ((0.0, False), (3.0, True)):
        runs = grid(seed=2, seeds=5)
        runs.loc[(runs["objective"] == "x") & (runs["k"] == 4), "value"] += shift
        runs = runs[(runs["objective"] != "z") | (runs["k"] == 2)].reset_index(drop=True)
        found = effects(runs, ["objective", "k"])
        means = runs.groupby(["objective", "k"])["value"].mean()
        left = means["x", 4] - means["x", 2] - means["y", 4] + means["y", 2]
        wide = runs.pivot(index="block", columns=["objective", "k"], values="value").to_numpy()
        within = wide - wide.mean(0) - wide.mean(1, keepdims=True) + wide.mean()
        variance = (within**2).sum() / 16
        assert found.fit is not None
        assert found.fit.statistic == pytest.approx(left**2 / (variance * 4 / 5))
        assert (found.fit.df, found.fit.error_df) == (1, 16)
        runs["cell"] = runs["objective"] + runs["k"].astype(str)
        models = [smf.ols(f"value ~ {terms} + C(block)", data=runs).fit()
                  for terms in ("C(objective) + C(k)", "C(cell)")]  # fmt: skip
        theirs = anova_lm(*models)
        assert found.fit.p == pytest.approx(theirs["Pr(>F)"].iloc[1])
        told = assumed(found.left_out, found.fit)
        assert "take these interactions to be zero" in told
        assert ("cells contradict that" in told) == doubted
        assert f"F = {found.fit.statistic:.2f} on 1 and 16" in told


def test_a_full_grid_takes_no_interaction_for_granted() -> None:
    found = effects(grid(), ["objective", "k"])
    assert found.fit is None
    assert assumed(found.left_out, found.fit) == ""
    assert "cannot test" in assumed(["a × b"], None)
