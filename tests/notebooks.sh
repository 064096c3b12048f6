#!/usr/bin/env bash
# Executes every notebook from its text form. Without an argument into a folder that is thrown away,
# else into the folder that is named. STORE=DIR takes another store than the shipped study;
# NOTEBOOKS='notebooks/paper.py' some of them.
set -euo pipefail
cd "$(dirname "$0")/.."
export OMP_NUM_THREADS=1 JUPYTER_PLATFORM_DIRS=1
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
out=${1:-$work/out}
mkdir -p "$out"
parameters=()
if [ -n "${STORE:-}" ]; then parameters=(-p results_dir "$STORE"); fi
count=0
for text in ${NOTEBOOKS:-notebooks/*.py}; do
  name=$(basename "$text" .py)
  python -m jupytext --quiet --to ipynb --output "$work/$name.ipynb" "$text"
  python -m papermill --log-level ERROR --no-progress-bar --no-log-output --kernel python3 \
    "${parameters[@]}" "$work/$name.ipynb" "$work/done.ipynb"
  python tests/clean_notebook.py "$work/done.ipynb" "$out/$name.ipynb"
  count=$((count + 1))
done
echo "notebooks: $count executed"
