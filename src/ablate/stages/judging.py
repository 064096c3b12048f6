"""The judge of a run: what identifies it when a run is planned, and how stages open it."""

import functools
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from ablate.config.dataset import GivenConfig
from ablate.config.judge import HttpJudgeConfig, JudgeConfig, check_template
from ablate.config.run import RunConfig
from ablate.datasets.base import PreferenceDataset
from ablate.errors import ConfigError
from ablate.evaluation.http_client import read_key
from ablate.stages.context import Context
from ablate.stages.external import classifier_content, local_folder, model_folder
from ablate.store.layout import Layout

if TYPE_CHECKING:
    from ablate.evaluation.judges import Judge


def judge_content(run: RunConfig, dataset: PreferenceDataset, layout: Layout) -> dict[str, Any]:
    """What decides the judge's scores, as plain data: a parameter of the stages that judge.

    Raises:
        ConfigError, ModelError: a template or model that is not there.
    """
    judge = run.judge
    if judge.kind == "world":
        return {"kind": "world", "world": dataset.judge_identity()}
    if judge.kind == "preference":
        return {"kind": "preference"}
    if judge.kind == "hf":
        return {"kind": "hf", **classifier_content(judge, layout)}
    # neither url nor key, waits nor number at once: the same model judges the same wherever it is
    # served, and a cluster gives it another port every day
    content: dict[str, Any] = {"kind": "http", "format": judge.format, "model": judge.model}
    if judge.version is not None:
        content["version"] = judge.version
    if judge.format == "chat":
        content |= {
            key: value for key, value in judge.chat.identity().items() if key != "template_file"
        }
        if judge.chat.mode == "pointwise":
            content.pop("swap")
        else:
            content.pop("scale")
    content["template"] = _template(judge) if judge.format == "chat" else ""
    return content


@functools.lru_cache(maxsize=4)
def check_judge(judge: JudgeConfig, device: str) -> None:
    """Refuses a judge that could not judge, before the work that leads up to it.

    Raises:
        ModelError: a classifier whose tokenizer does not fit it, or with several outputs.
        JudgeError: an endpoint's key is not in the environment.
    """
    if judge.kind == "http":
        read_key(judge.api_key_env)
    if judge.kind == "hf":
        from ablate.rewards.classifier import ClassifierSource

        folder = Path(local_folder(judge.path, judge.revision, "judge.path"))
        ClassifierSource(judge, folder, device, f"judge={judge.name}").check()


def compares_two(run: RunConfig) -> bool:
    """True for a judge that says which of two answers is better."""
    return run.judge.kind == "http" and run.judge.chat.mode == "pairwise"


def labelled_by(run: RunConfig) -> Literal["given", "judge"]:
    """Who labels responses: the dataset that they came with, or the judge."""
    return run.dataset.labelled_by if isinstance(run.dataset, GivenConfig) else "judge"


def judge_of(context: Context, dataset: PreferenceDataset, splits: Sequence[str]) -> "Judge":
    """The judge that a stage's parameters name, for answers to prompts of `splits`."""
    return open_planned(context.run, dataset, splits, context.params["judge"], context.inputs)


def open_planned(
    run: RunConfig,
    dataset: PreferenceDataset,
    splits: Sequence[str],
    content: dict[str, Any] | None,
    inputs: dict[str, Path],
) -> "Judge":
    """The judge that was identified as `content`; None where that is no part of the parameters."""
    from ablate.evaluation.judges import open_judge

    layout = Layout(Path(run.results_dir).expanduser())
    if content is None:
        content = judge_content(run, dataset, layout)
    folder: Path | None = None
    if run.judge.kind == "hf":
        folder = Path(model_folder(run.judge.path, content["content"]))
    elif "judge" in inputs:
        from ablate.stages.common import MODEL

        folder = inputs["judge"] / MODEL
    return open_judge(run, dataset, splits, folder, content, layout.verdicts)


def _template(judge: HttpJudgeConfig) -> str:
    chat = judge.chat
    if chat.template_file is None:
        return chat.template
    path = Path(chat.template_file).expanduser()
    try:
        text = path.read_text(encoding="utf-8")
        check_template(text, chat.mode)
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"judge.chat.template_file={path} cannot be read: {error}") from error
    except ValueError as error:
        raise ConfigError(f"judge.chat.template_file={path}: {error}") from None
    return text
