"""A sweep that tunes, on a real SLURM: both phases are submitted at once, and no job submits."""

from ablate.launch import scheduler
from ablate.launch.slurm import submitted
from ablate.results import load
from ablate.store.sweeps import read_sweep

FILE = """# Two arms.
arms:
  - objective: [dpo, rpo_sqloo]
    num_responses: 2
seeds: [0, 1]
tune: {trials: 2, seeds: [1000]}
analysis: {rows: objective, baseline: dpo, margin: 0.1}
"""


def test_the_second_phase_waits_for_the_choice(desk, stock) -> None:
    desk.stock(stock)
    (desk.folder / "mine" / "sweep").mkdir(parents=True)
    (desk.folder / "mine" / "sweep" / "two.yaml").write_text(FILE)
    words = ["--config-dir", "mine", "+sweep=two"]
    told = desk.submit(*words)
    assert "2 arms, 2 trials each" in told
    # four trials, four reports, and one small job between them that is no run
    folder = desk.sweep()
    jobs = submitted(folder)
    assert sum(key.startswith("run-") for key in jobs) == 8
    assert sum(key.startswith("choose-") for key in jobs) == 1
    waiting = [s for s in desk.status().values() if s.reason and "waits for the choice" in s.reason]
    assert {s.state for s in waiting} == {"queued"}
    assert "nothing to submit" in desk.submit(*words), "all of it is queued"
    desk.until_idle()
    sweep = read_sweep(folder)
    assert {contest.choice is not None for contest in sweep.contests} == {True}
    assert submitted(folder) == jobs, "no job submitted another"
    assert {s.state for s in desk.status().values()} == {"done"}
    runs = load(desk.results).set_index("id")
    for contest in sweep.contests:
        means = [float(runs.loc[trial.runs, "reward/valid"].mean()) for trial in contest.trials]
        assert contest.choice.trial == means.index(max(means))
        assert sorted(runs.loc[list(contest.choice.runs.values()), "seed"]) == [0, 1]
    table = desk.ablate("table", "--sweep", "two")
    assert "best of 2 trials" in " ".join(table.split())
    assert "nothing to submit" in desk.submit(*words)
    assert not scheduler.queue()
