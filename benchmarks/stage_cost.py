"""What does a whole stage cost beside its bare training steps?

Reads the records of a store whose runs were computed on the CPU, on this machine and with nothing
beside them (the store of `make study`, say). For every kind of stage that records time, it fits

    seconds = start + (seconds of its operations as bare training steps) / share

to all of them (squared errors weigh by 1 / seconds, so that the whole comes out right);
operations as `ablate plan` counts them, bare steps as `python benchmarks/training_cost.py` fitted
them. Writes benchmarks/results/stage_cost.json, and with --package what `ablate plan` assumes where
a store has no records:

    python benchmarks/stage_cost.py results/study
"""

import argparse
import json
from collections import defaultdict
from pathlib import Path

import numpy as np
from measuring import machine, write
from scipy.optimize import nnls

from ablate.launch.cost import FITS, step_cost
from ablate.launch.estimate import operations, shape_of, timings
from ablate.launch.work import optimizer_steps
from ablate.store import records
from ablate.store.layout import Layout


def points(layout: Layout) -> dict[str, list[tuple[float, float]]]:
    """Per kind of stage: seconds as bare training steps, and seconds that it took."""
    kinds: set[tuple[str, str]] = set()
    for folder in layout.runs.iterdir():
        record = records.latest(layout, folder.name)
        if record is not None:
            config = record.data["config"]
            kinds.add((config["base_model"]["name"], config["dataset"]["name"]))
    found = defaultdict[str, list[tuple[float, float]]](list)
    for base_model, dataset in sorted(kinds):
        known = timings(layout, base_model, dataset, limit=None)
        for stage, took in known.stages:
            shape = shape_of(stage.run)
            if shape is None or known.device != "cpu":
                continue
            bare = step_cost(shape.weights).seconds(
                optimizer_steps(stage), operations(stage, shape, known.response)
            )
            if bare:
                found[stage.name].append((bare, took))
    return found


def fitted(bare: np.ndarray, took: np.ndarray) -> tuple[float, float]:
    """(start in seconds, share), neither below 0."""
    weight = took**-0.5
    design = np.stack([np.ones_like(bare), bare], axis=1) * weight[:, None]
    (start, slope), _ = nnls(design, took * weight)
    return float(start), float(1 / slope)


def main() -> None:
    """Fits every kind of stage, prints the fits and writes them."""
    flags = argparse.ArgumentParser(description=__doc__)
    flags.add_argument("store", type=Path)
    flags.add_argument("--package", action="store_true", help="what `ablate plan` assumes from now")
    chosen = flags.parse_args()
    stages = {}
    print(f"{'stage':<14}{'n':>5}{'start, s':>10}{'share':>8}{'off by':>8}{'sum':>8}{'fit':>8}")
    for kind, pairs in sorted(points(Layout(chosen.store)).items()):
        bare, took = (np.array(column) for column in zip(*pairs, strict=True))
        start, share = fitted(bare, took)
        fit = start + bare / share
        error = float(np.abs(fit / took - 1).mean())
        stages[kind] = {
            "start_seconds": round(start, 3),
            "share": round(share, 4),
            "stages": len(pairs),
            "mean_relative_error": round(error, 4),
        }
        print(f"{kind:<14}{len(pairs):5}{start:10.2f}{share:8.2f}{error:8.0%}"
              f"{took.sum():8.0f}{fit.sum():8.0f}")  # fmt: skip
    write(
        "stage_cost",
        "seconds of a stage = start_seconds + seconds as bare training steps / share",
        machine(),
        {"stages": stages},
    )
    if chosen.package:
        known = json.loads(FITS.read_text(encoding="utf-8"))
        kept = ("start_seconds", "share")
        known["stages"] = {kind: {k: one[k] for k in kept} for kind, one in stages.items()}
        FITS.write_text(json.dumps(known, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
