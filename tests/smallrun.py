"""Words that make a whole run small: about two seconds after imports."""

SMALL = [
    "dataset.sizes.sft=256", "dataset.sizes.reward=60", "dataset.sizes.train=24",
    "dataset.sizes.valid=8", "dataset.sizes.test=12", "dataset.sizes.ood=8",
    "dataset.pool.num_responses=4", "base_model.sft.steps=40", "base_model.sft.batch_size=32",
    "training.batch_size=8", "evaluation.num_valid=8", "evaluation.num_test=12",
    "evaluation.num_ood=8", "tracker=none", "runtime.threads=1",
]  # fmt: skip
