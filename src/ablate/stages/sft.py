"""Stage `sft`: the base model, fine-tuned on demonstrations; initial policy and reference."""

import time
from typing import Any

from ablate.config.model import SFT
from ablate.datasets import open_dataset
from ablate.errors import DataError
from ablate.models.loading import (
    build_model,
    load_model,
    save_model,
    weights_digest,
)
from ablate.models.tokenizer import build_tokenizer, load_tokenizer
from ablate.stages.common import MODEL, RESULT, STEPS, open_fitter
from ablate.stages.context import Context
from ablate.stages.external import model_folder
from ablate.store.files import write_json
from ablate.store.tables import write_table
from ablate.training.sft import train_sft
from ablate.trl_compat.arguments import world_size


def run(context: Context) -> None:
    """Writes model/, train.parquet (where it was trained) and result.json."""
    base = context.run.base_model
    seed = context.params["seed"]
    started = time.monotonic()
    if base.kind == "scratch":
        tokenizer = build_tokenizer(context.params["vocabulary"])
        model = build_model(base, tokenizer, seed, device=context.run.runtime.device)
    else:
        assert base.path is not None
        folder = model_folder(base.path, context.params["model"]["content"])
        code = base.trust_remote_code
        tokenizer = load_tokenizer(folder, None, code, base.thinking)
        model = load_model(folder, base.dtype, None, code, context.run.runtime.device)
    result: dict[str, Any] = {"steps": 0}
    sft = SFT.model_validate(context.params["sft"])
    if sft.steps > 0:
        fitter = open_fitter(context.params, model, tokenizer)
        examples = []
        for prompt, text in open_dataset(context.run.dataset).demonstrations():
            fitted = fitter.group(prompt.conversation, [text])
            if fitted is not None and fitted.responses[0] is not None:
                examples.append((fitted.prompt_ids, fitted.responses[0][0]))
        if not examples:
            raise DataError("no demonstration fits into the model's context")
        steps = train_sft(
            model,
            tokenizer,
            examples,
            sft,
            seed=seed,
            work_dir=context.out / "work",
            report=context.report,
            lora=base.lora,
            micro_batch_size=base.micro_batch_size,
            gradient_checkpointing=base.gradient_checkpointing,
            partial=context.partial,
        )
        if not context.leads:
            return
        write_table(steps, context.out / STEPS)
        result |= {"steps": sft.steps, "final_loss": float(steps["loss"].iloc[-1])}
        result |= {"data": dict(fitter.counts)} if fitter.counts else {}
    save_model(model, tokenizer, context.out / MODEL)
    write_json(
        context.out / RESULT,
        {
            **result,
            "weights": weights_digest(model),
            "dtype": str(model.dtype).removeprefix("torch."),
            "processes": world_size(),
            "num_parameters": sum(p.numel() for p in model.parameters()),
            "seconds": time.monotonic() - started,
        },
    )
