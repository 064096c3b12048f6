"""What a study of K holds equal between its arms: prompts, responses, labels or tokens."""

import math

from ablate.config.run import RunConfig
from ablate.config.sweep_file import Match
from ablate.errors import ConfigError

#: the settings that `matched` gives
SCALED = (
    "training.epochs",
    "training.batch_size",
    "collection.round_prompts",
    "dataset.pool.num_responses",
)


def matched(match: Match, run: RunConfig, smallest: int, largest: int) -> list[str]:
    """Settings of an arm with K responses per prompt such that it matches the others.

    - prompts: the same prompts; more responses are more data and more compute.
    - responses: prompts and batches shrink as K grows, so that as many responses enter the loss,
      in as many optimizer steps, as with the smallest K.
    - labels: as responses, and only K responses per prompt are sampled and labelled, so that as
      many labels are bought.
    - tokens: the same prompts; a smaller K makes more passes, so that as many tokens are trained
      on as with the largest K (each response is counted with its prompt).

    Args:
        run: the arm; its settings are those of an arm without a match.
        smallest, largest: K over all arms of the study.

    Raises:
        ConfigError: the batch cannot be divided.
    """
    k = run.num_responses.k
    if match == "tokens":
        return [f"training.epochs={run.training.epochs * largest / k:g}"]
    if match == "prompts":
        return []
    words = [f"dataset.pool.num_responses={k}"] if match == "labels" else []
    if k == smallest:
        return words
    batch, rest = divmod(run.training.batch_size * smallest, k)
    if rest or not batch:
        raise ConfigError(
            f"match={match}: batches of {run.training.batch_size} prompts at K={smallest} do not "
            f"divide into as many responses at K={k}; choose training.batch_size as a multiple of "
            f"{k // math.gcd(k, smallest)}"
        )
    share = run.collection.round_prompts * smallest / k
    return [*words, f"collection.round_prompts={share:.6g}", f"training.batch_size={batch}"]
