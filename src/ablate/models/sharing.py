"""Which tokens of packed rows see which: the mask in each form that models take it, and a check."""

import inspect
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor

from ablate.models.packing import Packing, text_rows
from ablate.trl_compat.fused_head import base_of, fused_head, token_values

#: rows from this length on are worth FlexAttention's block masks on a GPU
FLEX_LENGTH = 1024
#: the length of FlexAttention's blocks
FLEX_BLOCK = 128
#: (batch, head, query, key) -> bool
MaskFunction = Callable[[Any, Any, Any, Any], Any]


def mask_function(
    tree: Tensor, branch: Tensor, positions: Tensor, window: int | None
) -> MaskFunction:
    """What FlexAttention and the dense mask ask of two places in a row.

    A token sees those before it in its own tree that are the prompt's or its own branch's, and
    only the last `window` positions where attention slides. Padding sees padding before it, so
    that no row of attention is empty.

    Args:
        tree, branch, positions: int[R, L].
    """

    def sees(row: Any, head: Any, query: Any, key: Any) -> Any:
        own = branch[row, key]
        seen = (key <= query) & (tree[row, query] == tree[row, key])
        seen = seen & ((own == 0) | (own == branch[row, query]))
        if window is not None:
            seen = seen & (positions[row, query] - positions[row, key] < window)
        return seen

    return sees


def dense_mask(tree: Tensor, branch: Tensor, positions: Tensor, window: int | None) -> Tensor:
    """bool[R, 1, L, L]: `mask_function` at all places, True where a query sees a key."""
    length = tree.shape[1]
    places = torch.arange(length, device=tree.device)
    seen = places[:, None] >= places[None, :]
    seen = seen & (tree[:, :, None] == tree[:, None, :])
    own = branch[:, None, :]
    seen = seen & ((own == 0) | (own == branch[:, :, None]))
    if window is not None:
        seen = seen & (positions[:, :, None] - positions[:, None, :] < window)
    return seen[:, None]


def attention(model: Any, rows: dict[str, Tensor], prefix: str = "") -> Any:
    """The `attention_mask` with which a model attends within packed rows.

    A dense mask (SDPA: boolean, on a CPU what is added to the scores; eager: added), or a block
    mask where the model runs FlexAttention; one per kind of layer where layers differ.
    """
    config = base_of(getattr(model, "module", model)).config.get_text_config()
    tree, branch, positions = (rows[f"{prefix}{n}"] for n in ("tree", "branch", "position_ids"))
    kind = config._attn_implementation

    def build(window: int | None) -> Any:
        if kind == "flex_attention":
            from torch.nn.attention.flex_attention import create_block_mask

            count, length = tree.shape
            sees = mask_function(tree, branch, positions, window)
            return create_block_mask(sees, count, None, length, length, device=str(tree.device))
        seen = dense_mask(tree, branch, positions, window)
        if kind == "sdpa" and tree.device.type != "cpu":
            return seen
        # made once for all layers
        low = torch.finfo(torch.float32).min
        return torch.zeros(seen.shape, device=seen.device).masked_fill_(~seen, low)

    window = getattr(config, "sliding_window", None)
    layers = getattr(config, "layer_types", None)
    if layers is None:
        return build(window)
    windows = {"full_attention": None, "sliding_attention": window}
    return {layer: build(windows[layer]) for layer in sorted(set(layers))}


def use_flex(model: Any, longest: int) -> bool:
    """Whether packed rows of a model should go through FlexAttention: long rows on a GPU."""
    base = base_of(model)
    flex = bool(getattr(base, "_supports_flex_attn", False))
    return flex and base.device.type == "cuda" and longest >= FLEX_LENGTH


@contextmanager
def attending(model: Any, kind: str | None) -> Iterator[None]:
    """Within: the model's attention is of another kind (`sdpa`, `flex_attention`); None: as is."""
    base = base_of(model)
    before = base.config._attn_implementation
    if kind is None or kind == before:
        yield
        return
    base.set_attn_implementation(kind)
    try:
        yield
    finally:
        base.set_attn_implementation(before)


_REASONS: "WeakKeyDictionary[Any, tuple[str | None]]" = WeakKeyDictionary()


def why_not(model: Any) -> str | None:
    """Why a model cannot score packed rows as it scores single ones; None: it can.

    Tried on two short prompts with three responses each: log-probs by packed rows must be those
    of a row per response. Found once per model.
    """
    base = base_of(model)
    if base not in _REASONS:
        _REASONS[base] = (_tried(base),)
    return _REASONS[base][0]


def _tried(model: Any) -> str | None:
    config = model.config.get_text_config()
    name = type(model).__name__
    if config._attn_implementation not in ("sdpa", "eager", "flex_attention"):
        return f"attention {config._attn_implementation!r} takes no mask of one's own"
    layers = set(getattr(config, "layer_types", None) or ())
    if layers - {"full_attention", "sliding_attention"}:
        other = ", ".join(sorted(layers - {"full_attention", "sliding_attention"}))
        return f"{name} has layers of another kind than attention ({other})"
    if "position_ids" not in inspect.signature(type(model).forward).parameters:
        return f"{name} takes no position_ids"
    draw = torch.Generator().manual_seed(0)

    def some(count: int) -> list[int]:
        return torch.randint(config.vocab_size, (count,), generator=draw).tolist()

    texts, owners = [], []
    for owner, prompt in enumerate((some(4), some(1))):
        for count in (5, 1, 3):
            texts.append((prompt, some(count)))
            owners.append(owner)
    was_training = model.training
    model.eval()
    try:
        with fused_head(model), torch.no_grad():
            alone = _scores(model, text_rows(texts, owners, 0, None), shared=False)
            # one row, whatever its attention costs
            rows = text_rows(texts, owners, 0, Packing(0.0))
            packed = _scores(model, rows, shared=True)
    except Exception as error:
        return f"{name} fails on packed rows ({type(error).__name__}: {str(error).splitlines()[0]})"
    finally:
        model.train(was_training)
    allowed = 1e-4 if next(model.parameters()).dtype == torch.float32 else 0.1
    worst = float((alone - packed).abs().max())
    if not worst <= allowed * max(1.0, float(alone.abs().max())):
        return f"log-probs of {name} by packed rows differ by {worst:.2g} from single rows"
    return None


def _scores(model: Any, rows: dict[str, Tensor], shared: bool) -> Tensor:
    rows = {name: value.to(model.device) for name, value in rows.items()}
    mask = attention(model, rows) if shared else None
    return token_values(model, rows, ("log_probs",), mask)[0]
