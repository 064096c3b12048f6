#!/usr/bin/env bash
# The wheel in an empty environment and an empty directory: configuration and plugins inside.
set -euo pipefail
python=${PYTHON:-python3}
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

"$python" -m pip wheel --quiet --no-deps --wheel-dir "$work/dist" .
python3 -m venv "$work/venv"
"$work/venv/bin/python" -m pip install --quiet --constraint constraints.txt torch
"$work/venv/bin/python" -m pip install --quiet --constraint constraints.txt "$work"/dist/*.whl
mkdir "$work/empty"
cd "$work/empty"
"$work/venv/bin/ablate" --help > help.txt
grep -q rpo_bwd help.txt
small=(dataset.sizes.sft=64 dataset.sizes.train=16 dataset.pool.num_responses=4
       base_model.sft.steps=5 base_model.sft.batch_size=16 training.batch_size=8
       evaluation.num_valid=8 evaluation.num_test=8 evaluation.num_ood=8)
HF_HUB_OFFLINE=1 "$work/venv/bin/python" -m ablate "${small[@]}"
HF_HUB_OFFLINE=1 "$work/venv/bin/ablate" objective=simpo num_responses=4 seed=0,1 -m "${small[@]}"
"$work/venv/bin/ablate" ls
found=$(ls)
test "$found" = $'help.txt\nresults' || { echo "unexpected files: $found"; exit 1; }
"$work/venv/bin/ablate" report --out "$work/report.html"
grep -q 'ul.points' "$work/report.html" || { echo "the report has no style"; exit 1; }
echo "wheel: 4 passed, 0 failed"
