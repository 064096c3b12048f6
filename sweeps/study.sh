#!/usr/bin/env bash
# The example study: what results/reference holds, from nothing. About an hour and a half on two cores.
#   bash sweeps/study.sh [STORE]      (ablate has to be on the PATH; the same command again goes on)
# Cut to fit: online training in one world (lists) with one model (tiny); six trials per arm of the
# paper's table and four elsewhere, instead of eight; sweeps of online rewards and of noisy labels left out.
set -euo pipefail
cd "$(dirname "$0")/.."
store=${1:-results/study}
export OMP_NUM_THREADS=1
run() { ablate "$@" "results_dir=$store" tracker=none -m; }

run +sweep=paper tune.trials=6
run +sweep=objectives tune.trials=4 dataset=sums
run +sweep=iterations tune.trials=4
run +sweep=prompt_distribution tune.trials=4
run +sweep=implicit_explicit tune.trials=4
run +sweep=num_responses tune.trials=4
run +sweep=model_size tune.trials=4 objective=dpo,rpo_bwd

ablate compact --to results/reference \
  --sweep paper --sweep objectives --sweep iterations --sweep prompt_distribution \
  --sweep implicit_explicit --sweep num_responses --sweep model_size "results_dir=$store"
