"""Why a table is tested on runs: false findings in studies in which nothing differs.

    python benchmarks/null_tables.py            # minutes
    python benchmarks/null_tables.py --tables 4000

Every arm is the same algorithm. Runs of an arm spread between seeds by 0.5 to 3 prompt standard
errors. A table counts as a false finding when any of its cells is called significant at 5 %.
"""

import argparse
from itertools import chain

import numpy as np

from ablate.analysis import null

ARMS, PROMPTS = 6, 64
RATIOS = (0.5, 1.0, 2.0, 3.0)
EQUAL, UNEQUAL = (8,) * ARMS, (1,) + (8,) * (ARMS - 1)
#: trials of each arm, standard deviation between them in a run's own, seeds that are reported
TUNED = (
    (EQUAL, 0.0, "sweep"), (UNEQUAL, 0.0, "sweep"), (EQUAL, 0.0, "reuse"), (UNEQUAL, 0.0, "reuse"),
    (EQUAL, 0.25, "sweep"), (EQUAL, 0.5, "sweep"), (EQUAL, 1.0, "sweep"), (EQUAL, 2.0, "sweep"),
)  # fmt: skip


def main() -> None:
    """Prints the table of false-finding rates as Markdown."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tables", type=int, default=1000, help="null studies per line")
    parser.add_argument("--tuned", type=int, default=400, help="the same with hyper-parameters")
    asked = parser.parse_args()
    tables, tuned = asked.tables, asked.tuned
    ways = [
        "run means blocked by seed, pooled, Holm (`ablate table`)", "the same, not corrected",
        "each pair's own seeds, Holm", "paired over prompts, Holm",
        "bootstrap over prompts and seeds, Holm",
    ]  # fmt: skip
    print(f"{ARMS} arms, {PROMPTS} prompts, {tables} studies per line; tables with a finding, %\n")
    print("| seeds | spread between seeds | " + " | ".join(ways) + " |")
    print("|---:|---:|" + "---:|" * len(ways))
    for seeds in (2, 3, 5):
        for ratio in RATIOS:
            rng = np.random.default_rng([seeds, round(10 * ratio)])
            scores = null.null_scores(rng, tables, ARMS, seeds, PROMPTS, ratio)
            means = scores.mean(axis=3)
            rates = [
                null.share_with_a_finding(p)[0]
                for p in (
                    null.blocked_p(means),
                    null.blocked_p_single(means),
                    null.own_pair_p(means),
                    null.prompt_paired_p(scores),
                    null.bootstrap_p(rng, scores),
                )
            ]
            shown = " | ".join(f"{100 * rate:.1f}" for rate in rates)
            print(f"| {seeds} | {ratio} | {shown} |")
    print(f"\nHyper-parameters chosen on valid; {tuned} studies per line (blocked test, Holm):\n")
    print("| trials of baseline and others | trials differ by | reported seeds | 2 | 3 | 5 seeds |")
    print("|---|---:|---|---:|---:|---:|")
    for trials, quality, report in TUNED:
        rates = []
        for seeds in (2, 3, 5):
            rng = np.random.default_rng([1, seeds])
            # in units of what one run's value on valid deviates by
            parts = [
                null.tuned_cells(
                    rng, tuned // len(RATIOS), trials, seeds, ratio, report=report,
                    quality=quality * float(np.hypot(1, ratio)),
                )
                for ratio in RATIOS
            ]  # fmt: skip
            means = null.reported(chain(*parts))
            rates.append(f"{100 * null.share_with_a_finding(null.blocked_p(means))[0]:.1f}")
        told = "those that chose" if report == "reuse" else "fresh"
        print(f"| {trials[0]} and {trials[1]} | {quality:g} | {told} | {' | '.join(rates)} |")


if __name__ == "__main__":
    main()
