"""A training that is interrupted by a real signal ends with the weights of one that is not."""

import os
import shutil
import signal
from types import SimpleNamespace

import numpy as np
import pytest
from rollouts import make_rollout, rewarded, token_reward

from ablate import preemption
from ablate.config.model import SFT, Lora
from ablate.models.loading import save_model, weights_digest
from ablate.objectives import make_objective
from ablate.training import resume
from ablate.training.online import FreshGroups
from ablate.training.policy import train_policy
from ablate.training.reward_model import Comparison, train_reward_model
from ablate.training.sft import train_sft
from ablate.training.watch import Curve

STEPS = 6


@pytest.fixture(autouse=True)
def listening():
    before = signal.getsignal(signal.SIGUSR2)
    preemption.listen(signal.SIGUSR2)
    yield
    preemption.listen()
    signal.signal(signal.SIGUSR2, before)


class Counting:
    """Rewards that depend on what was rewarded before, like those of a shaper with a history."""

    def __init__(self):
        self.seen = 0.0

    def state_dict(self):
        return {"seen": self.seen}

    def load_state_dict(self, state):
        self.seen = state["seen"]

    def score(self, answers, step=0):
        self.seen += len(answers)
        table = token_reward(answers)
        values = table.reward * (1 + np.sin(self.seen + np.arange(len(answers))))
        return rewarded(values, answers)


def remembering(count, every, tokenizer):
    memory = Counting()
    return FreshGroups(count, every, make_rollout(tokenizer, score=memory.score), memory)


@pytest.fixture
def train(make_model, make_groups, make_training, tokenizer, tmp_path):
    """Trains a fresh model; `stops` are the steps in which a signal arrives."""
    numbers = iter(range(100))

    def once(name, place, partial, stop, every, lora, **changes):
        model = make_model()
        training = make_training(
            batch_size=4, max_steps=STEPS, epochs=9, checkpoint_every=2, schedule="linear",
            warmup_steps=2, **changes,
        )  # fmt: skip
        groups = make_groups(12)
        if every is not None:
            groups = remembering(12, every, tokenizer)

        def report(step, total, metrics):
            if step == stop:
                os.kill(os.getpid(), signal.SIGUSR2)

        points = Curve(2, lambda policy: {"norm": float(next(policy.parameters()).norm())})
        return train_policy(
            model, tokenizer, groups, make_objective(name), training, seed=0, work_dir=place,
            report=report, partial=partial, curve=points, lora=lora,
        )  # fmt: skip

    def run(name, stops=(), every=None, lora=None, between=None, **changes):
        number = next(numbers)
        partial = tmp_path / f"partial-{number}"
        for stop in (*stops, None):
            # what the interrupted process had under way is gone
            place = tmp_path / f"work-{number}"
            shutil.rmtree(place, ignore_errors=True)
            preemption.listen(signal.SIGUSR2)
            if stop is None:
                return once(name, place, partial, None, every, lora, **changes)
            with pytest.raises(preemption.Preempted, match=f"step {stop} of {STEPS}"):
                once(name, place, partial, stop, every, lora, **changes)
            if between is not None:
                between(partial, stop)
        raise AssertionError

    return run


def same(left, right):
    assert [step for step, _ in left.checkpoints] == [step for step, _ in right.checkpoints]
    for (_, one), (_, other) in zip(left.checkpoints, right.checkpoints, strict=True):
        assert weights_digest(one) == weights_digest(other)
    plain = left.steps.drop(columns="seconds")
    assert plain.equals(right.steps.drop(columns="seconds")), "every row, the token counts too"
    assert left.curve.equals(right.curve)


@pytest.mark.parametrize(
    ("name", "changes"),
    [
        ("rpo_bwd", {}),
        ("rpo_bwd", {"micro_batch_size": 2}),
        ("bco", {}),
        ("beta_dpo", {}),
        ("kto", {}),
        ("rpo_bwd", {"every": 1}),
        ("bco", {"every": 3}),
        ("dpo", {"lora": Lora(r=2, alpha=4.0, target_modules="all-linear")}),
    ],
    ids=lambda value: value if isinstance(value, str) else "-".join(value),
)
def test_interrupted_and_not_are_the_same_bit_for_bit(name, changes, train):
    """Stops after an odd step, between two checkpoints and in the middle of a refresh."""
    same(train(name, **changes), train(name, stops=(1, 4), **changes))


def interrupted(train, tmp_path, stops):
    """What `train` gives when a signal arrives in these steps, taken up each time."""
    for stop in (*stops, None):
        preemption.listen(signal.SIGUSR2)

        def report(step, total, metrics, stop=stop):
            if step == stop:
                os.kill(os.getpid(), signal.SIGUSR2)

        if stop is None:
            return train(report=report, partial=tmp_path / "partial")
        with pytest.raises(preemption.Preempted, match=f"step {stop} of {STEPS}"):
            train(report=report, partial=tmp_path / "partial")
    raise AssertionError


def equal(left, right):
    (one, first), (other, second) = left, right
    assert weights_digest(one) == weights_digest(other)
    assert first.drop(columns="seconds").equals(second.drop(columns="seconds"))
    assert len(first) == STEPS
    assert second["seconds"].is_monotonic_increasing


@pytest.mark.parametrize(
    "settings",
    [{}, {"micro_batch_size": 2}, {"lora": Lora(r=2, alpha=4.0, target_modules="all-linear")}],
    ids=["plain", "micro-batches", "lora"],
)
def test_interrupted_fine_tuning_is_the_same_bit_for_bit(settings, make_model, tokenizer, tmp_path):
    examples = [([1, 5 + n % 8, 3], [5 + n % 8] * (1 + n % 3) + [2]) for n in range(10)]
    sft = SFT(steps=STEPS, batch_size=4, lr=1e-2, warmup_steps=3, weight_decay=0.1)

    def train(**more):
        model = make_model()
        steps = train_sft(
            model, tokenizer, examples, sft, seed=1, work_dir=tmp_path / "work", **settings, **more
        )
        return model, steps

    equal(train(), interrupted(train, tmp_path, (1, 4)))


@pytest.mark.parametrize(
    ("loss", "more"),
    [("bradley_terry", {}), ("bradley_terry", {"micro_batch_size": 2}),
     ("preference", {"outputs": 4, "tau": 0.5})],
)  # fmt: skip
def test_an_interrupted_reward_model_is_the_same_bit_for_bit(
    loss, more, make_model, tokenizer, tmp_path
):
    save_model(make_model(), tokenizer, tmp_path / "sft")
    pairs = [Comparison([1, 5 + n % 8, 3], [5, 6 + n % 3, 2], [7 + n % 5, 2]) for n in range(8)]
    settings = SimpleNamespace(loss=loss, lr=1e-2, batch_size=4, epochs=STEPS / 2)

    def train(**watching):
        return train_reward_model(
            tmp_path / "sft", tokenizer, pairs, settings, seed=1, work_dir=tmp_path / "work",
            device="cpu", **more, **watching,
        )  # fmt: skip

    equal(train(), interrupted(train, tmp_path, (1, 4)))


def test_a_half_written_training_is_never_picked(train, tmp_path):
    whole = train("rpo_bwd")
    partial = tmp_path / "partial-1"
    # a later one that a kill cut short, and one that was never renamed
    (partial / "step-00005" / "trainer").mkdir(parents=True)
    (partial / "writing-00005").mkdir()
    assert resume.find(partial) is None
    same(whole, train("rpo_bwd", stops=(3,)))


def spoil(path):
    """Cuts the end off a file, as a node does that crashes before it was flushed."""
    os.truncate(path, path.stat().st_size // 2)


@pytest.mark.parametrize("stops", [(1, 4), (4,)], ids=["older", "none"])
@pytest.mark.parametrize("name", ["optimizer.pt", "model.safetensors"])
def test_a_saved_training_that_was_cut_short_is_set_aside(name, stops, train, capsys):
    """Goes on from the one before, which is kept until its successor was verified, or anew."""

    def crash(partial, step):
        assert (partial / f"step-{step:05d}" / "manifest.json").exists()
        if step == 4:
            spoil(partial / "step-00004" / "trainer" / name)
            assert len(list(partial.iterdir())) == len(stops)

    same(train("rpo_bwd"), train("rpo_bwd", stops=stops, between=crash))
    said = capsys.readouterr().err
    assert f"step-00004 is damaged: trainer/{name} does not match its checksum; set aside" in said


def test_a_saved_training_is_kept_until_a_later_one_was_verified(train):
    seen = []

    def look(partial, step):
        # without the time at which it was set aside
        seen.append(sorted(path.name[: path.name.index("-0") + 6] for path in partial.iterdir()))
        if step == 2:
            spoil(partial / "step-00002" / "trainer" / "optimizer.pt")

    train("rpo_bwd", stops=(1, 2, 4, 5), between=look)
    assert seen == [
        ["step-00001"],
        ["step-00001", "step-00002"],
        ["damaged-step-00002", "step-00001", "step-00004"],
        ["step-00004", "step-00005"],
    ]


def test_outside_of_training_the_work_ends_at_once():
    with pytest.raises(preemption.Preempted, match="SIGUSR2"):
        os.kill(os.getpid(), signal.SIGUSR2)
