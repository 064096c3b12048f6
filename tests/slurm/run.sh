#!/usr/bin/env bash
# Starts a cluster, runs the tests of tests/slurm on it, stops it.
set -euo pipefail
cd "$(dirname "$0")/../.."
folder=$(mktemp -d "${TMPDIR:-/tmp}/ablate-slurm.XXXXXX")
trap 'tests/slurm/cluster.sh stop "$folder"; rm -rf "$folder"' EXIT
# small, so that sweeps of twelve runs have to be cut
export SLURM_TEST_MAX_ARRAY=7
tests/slurm/cluster.sh start "$folder"
# shellcheck disable=SC1091
source "$folder/env"
export ABLATE_TEST_SLURM=$folder HF_HUB_OFFLINE=1 OMP_NUM_THREADS=1
python -m pytest tests/slurm "$@"
