"""Why a table is tested on runs: false findings in studies in which nothing differs.

    python benchmarks/null_tables.py            # about a minute
    python benchmarks/null_tables.py --tables 4000

Every arm is the same algorithm. Runs of an arm spread between seeds by 0.5 to 3 prompt standard
errors. A table counts as a false finding when any of its cells is called significant at 5 %.
"""

import argparse

import numpy as np

from ablate.analysis import null

ARMS, PROMPTS = 6, 64
RATIOS = (0.5, 1.0, 2.0, 3.0)


def main() -> None:
    """Prints the table of false-finding rates as Markdown."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tables", type=int, default=1000, help="null studies per line")
    tables = parser.parse_args().tables
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
    print("\nHyper-parameters chosen on valid, every trial being the same (blocked test, Holm):\n")
    print("| trials of baseline and others | reported seeds | tables with a finding, % |")
    print("|---|---|---:|")
    for trials in ((8,) * ARMS, (1,) + (8,) * (ARMS - 1)):
        for fresh in (True, False):
            rates = []
            for seeds in (2, 3, 5):
                for ratio in RATIOS:
                    rng = np.random.default_rng([1, seeds, round(10 * ratio)])
                    means = null.tuned_means(rng, tables, trials, seeds, ratio, fresh=fresh)
                    rates.append(null.share_with_a_finding(null.blocked_p(means))[0])
            told = "fresh" if fresh else "those that chose"
            print(
                f"| {trials[0]} and {trials[1]} | {told} | "
                f"{100 * min(rates):.1f} to {100 * max(rates):.1f} |"
            )


if __name__ == "__main__":
    main()
