#!/usr/bin/env bash
# The example study: what results/reference holds, from nothing. An hour and a half on two cores.
#   bash sweeps/study.sh [STORE]      (ablate has to be on the PATH; the same command again goes on)
# Cut to fit: online training in one world (lists) with one model (tiny); six trials per arm of the
# paper's table and four elsewhere, instead of eight; rounds, prompts and numbers of responses with one
# objective, the last not matched by tokens; six objectives in the second world (sums); the second
# model (micro, a third of tiny) with the paper's offline objectives, two responses; sweeps of online
# rewards, of semi-online training and of noisy labels left out.
set -euo pipefail
cd "$(dirname "$0")/.."
store=${1:-results/study}
export OMP_NUM_THREADS=1
run() { ablate "$@" "results_dir=$store" tracker=none -m; }

run +sweep=paper tune.trials=6
run +sweep=iterations tune.trials=4 objective=rpo_bwd
run +sweep=prompt_distribution tune.trials=4 objective=rpo_bwd
run +sweep=implicit_explicit tune.trials=4
run +sweep=objectives tune.trials=4 dataset=sums \
  objective=dpo,ipo,simpo,kto,rpo_bwd,rpo_sqloo
run +sweep=num_responses tune.trials=4 match=prompts,responses objective=rpo_bwd
run +sweep=model_size tune.trials=4 base_model=micro num_responses=2 \
  objective=dpo,simpo,kto,rpo_bwd,rpo_sqloo

# the copy that the repository ships: records of every run, answers and pairs of the test prompts
rm -rf results/reference/compact results/reference/sweeps
ablate compact --small --split test --to results/reference \
  --sweep paper --sweep iterations --sweep prompt_distribution --sweep implicit_explicit \
  --sweep objectives --sweep num_responses --sweep model_size "results_dir=$store"
echo "the study took $((SECONDS / 60)) min"
