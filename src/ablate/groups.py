"""The one batch type of preference training: prompts with their K responses, as tensors."""

from collections.abc import Callable
from copy import copy
from dataclasses import dataclass, fields, replace

import torch
from torch import Tensor

from ablate.errors import DataError

#: how near to 0 or 1 a probability counts as certain: its logit stays finite
CERTAIN = 1e-6
#: pairing key of an absent response
_PAD_KEY = torch.iinfo(torch.int64).max


@dataclass
class PromptGroup:
    """A batch of B prompts with up to K responses each. Log-probabilities are in nats.

    Legend: T tokens of the longest response, M mismatched pairs, R further rewards.

    `mask` is False where a response is absent (ragged K); what stands in the other fields there
    is never read, not even NaN. Missing `mask` means that all responses are present. Responses
    are ordered by `rewards` where these are known, else by `ranks`, else by how often they win.

    Raises `DataError` naming the field if a shape does not fit or a known reward is not finite.
    """

    #: float[B, K]: log π_θ(y|x) summed over the completion's tokens
    policy_logps: Tensor
    #: float[B, K]: the same under the reference policy
    ref_logps: Tensor | None = None
    #: float[B, K]: scores that training may see; differences mean something
    rewards: Tensor | None = None
    #: int[B, K]: completion tokens, the end-of-sequence token included
    lengths: Tensor | None = None
    #: bool[B, K]: True where the response is present
    mask: Tensor | None = None
    #: float[B, K]: order only (higher is better, equal is a tie); differences mean nothing
    ranks: Tensor | None = None
    #: int[B, K]: arbitrary numbers unrelated to quality, unlike within a prompt (say the index
    #: in the sampled pool); they settle every choice that would else be random
    pairing_key: Tensor | None = None
    #: float[B, M]: log π_θ of mismatched pairs (a prompt with another prompt's response)
    kl_logps: Tensor | None = None
    #: float[B, M]: the same under the reference policy
    kl_ref_logps: Tensor | None = None
    #: bool[B, M]: True where the mismatched pair is present; missing means everywhere
    kl_mask: Tensor | None = None
    #: float[B, K, R]: further rewards beside the one that made the preference
    extra_rewards: Tensor | None = None
    #: float[B, K, T]: per-token log π_θ, and under the reference; zero beyond the completion
    token_logps: Tensor | None = None
    token_ref_logps: Tensor | None = None
    #: float[B, K, T]: per-token log-probs under the policy that drew the responses; missing means
    #: that they are fresh, drawn from the policy as it is
    old_token_logps: Tensor | None = None
    #: float[B, K]: log π(y|x) under the policy of the round before
    prev_logps: Tensor | None = None
    #: float[B, K, K]: probability that response i beats response j; ½ on the diagonal
    win_probs: Tensor | None = None
    #: float[B, K]: Σ_t log Σ_v π_θ(v|x, y_<t)²
    log_sum_sq: Tensor | None = None
    #: float[B, K, T]: KL(π_ref(·|x, y_<t) ‖ π_θ(·|x, y_<t)) at every token
    token_kl: Tensor | None = None
    #: float[B, K, T]: weights of the tokens' log-ratios, and of their KL
    token_weights: Tensor | None = None
    token_kl_weights: Tensor | None = None
    #: float[B]: log π_θ of a gold response, and int[B]: its tokens
    gold_logps: Tensor | None = None
    gold_lengths: Tensor | None = None
    #: float[B]: log π_θ of a rationale of the preference, given prompt and responses
    rationale_logps: Tensor | None = None
    #: float[B]: log π_θ of one more response, drawn from the reference policy
    sample_logps: Tensor | None = None

    def __post_init__(self) -> None:
        if self.policy_logps.dim() != 2:
            raise DataError(
                f"policy_logps must have shape [prompts, responses], got "
                f"{list(self.policy_logps.shape)}"
            )
        grid = tuple(self.policy_logps.shape)
        for name in _GRID_FIELDS:
            self._expect(name, getattr(self, name), grid)
        for name in _DEEP_FIELDS:
            value = getattr(self, name)
            if value is not None and (value.dim() != 3 or tuple(value.shape[:2]) != grid):
                raise DataError(
                    f"{name} must have shape [{grid[0]}, {grid[1]}, ...] like policy_logps, got "
                    f"{list(value.shape)}"
                )
        for name in _PROMPT_FIELDS:
            value = getattr(self, name)
            if value is not None and tuple(value.shape) != grid[:1]:
                raise DataError(f"{name} must have shape [{grid[0]}], got {list(value.shape)}")
        self._check_win_probs(grid)
        self._check_mismatched(grid[0])
        for name in ("mask", "kl_mask"):
            value = getattr(self, name)
            if value is not None and value.dtype != torch.bool:
                raise DataError(f"{name} must be a boolean tensor, got {value.dtype}")
        for name in ("rewards", "ranks"):
            value = getattr(self, name)
            if value is not None and not bool((torch.isfinite(value) | ~self.present).all()):
                raise DataError(f"{name} must be finite for every present response")

    def _expect(self, name: str, value: Tensor | None, shape: tuple[int, ...]) -> None:
        if value is not None and tuple(value.shape) != shape:
            raise DataError(
                f"{name} must have shape {list(shape)} to fit policy_logps, got {list(value.shape)}"
            )

    def _check_win_probs(self, grid: tuple[int, ...]) -> None:
        if self.win_probs is None:
            return
        self._expect("win_probs", self.win_probs, (*grid, grid[1]))
        both = self.present[:, :, None] & self.present[:, None, :]
        inside = (self.win_probs >= 0) & (self.win_probs <= 1)
        if not bool((inside | ~both).all()):
            raise DataError("win_probs must lie in [0, 1] for every two present responses")

    def _check_mismatched(self, prompts: int) -> None:
        given, reference = self.kl_logps, self.kl_ref_logps
        if (given is None) != (reference is None):
            raise DataError("kl_logps and kl_ref_logps come together: one of them is missing")
        if given is None or reference is None:
            return
        if given.dim() != 2 or given.shape[0] != prompts or given.shape != reference.shape:
            raise DataError(
                f"kl_logps and kl_ref_logps must both have shape [{prompts}, M], got "
                f"{list(given.shape)} and {list(reference.shape)}"
            )
        if self.kl_mask is not None and self.kl_mask.shape != given.shape:
            raise DataError(
                f"kl_mask must have the shape of kl_logps, {list(given.shape)}, got "
                f"{list(self.kl_mask.shape)}"
            )

    @property
    def num_prompts(self) -> int:
        """B."""
        return self.policy_logps.shape[0]

    @property
    def num_responses(self) -> int:
        """K, absent responses included."""
        return self.policy_logps.shape[1]

    @property
    def present(self) -> Tensor:
        """bool[B, K]: the mask, all True where none was given."""
        if self.mask is None:
            return torch.ones_like(self.policy_logps, dtype=torch.bool)
        return self.mask

    @property
    def dtype(self) -> torch.dtype:
        """Type in which an objective computes: that of the log-probs, at least float32."""
        return torch.promote_types(self.policy_logps.dtype, torch.float32)

    def order(self) -> Tensor | None:
        """float[B, K]: what the responses are ranked by, 0 where absent; None if nothing is known.

        Rewards where they are given, else ranks, else win rates.
        """
        values = self.rewards if self.rewards is not None else self.ranks
        if values is None:
            return None if self.win_probs is None else self.win_rates()
        return torch.where(self.present, values, torch.zeros_like(values))

    def win_rates(self, logits: bool = False) -> Tensor:
        """float[B, K]: mean over present j of P(y_k beats y_j), itself included; 0 where absent.

        `logits`: the mean of log P/(1 - P) instead. Raises `DataError` without `win_probs`.
        """
        if self.win_probs is None:
            raise DataError("win rates need win_probs")
        both = self.present[:, :, None] & self.present[:, None, :]
        values = torch.where(both, self.win_probs.to(self.dtype), 0.5)
        if logits:
            values = torch.logit(values, eps=CERTAIN)
        values = torch.where(both, values, torch.zeros_like(values))
        return values.sum(dim=2) / self.present.sum(dim=1, keepdim=True).clamp(min=1)

    def key(self) -> Tensor:
        """int[B, K]: `pairing_key`, or the position of the response where none was given."""
        if self.pairing_key is not None:
            return self.pairing_key
        positions = torch.arange(self.num_responses, device=self.policy_logps.device)
        return positions.expand(self.num_prompts, -1)

    def to(self, device: torch.device | str) -> "PromptGroup":
        """The same group with every tensor on `device`."""
        return self._map(lambda _, value: value.to(device))

    def rows(self, index: slice | Tensor) -> "PromptGroup":
        """The prompts named by `index` (a slice or int[b]), for instance a micro-batch."""
        return self._map(lambda _, value: value[index])

    def pad_to(self, num_responses: int) -> "PromptGroup":
        """The same group widened to `num_responses` with absent responses."""
        missing = num_responses - self.num_responses
        if missing < 0:
            raise DataError(
                f"cannot pad {self.num_responses} responses per prompt to {num_responses}"
            )

        def widen(name: str, value: Tensor) -> Tensor:
            if name.startswith("kl_") or name in _PROMPT_FIELDS:
                return value
            if name == "win_probs":
                value = torch.cat([value, value.new_zeros(*value.shape[:2], missing)], dim=2)
            fill = _PAD_KEY if name == "pairing_key" else 0
            shape = (value.shape[0], missing, *value.shape[2:])
            return torch.cat([value, value.new_full(shape, fill)], dim=1)

        return replace(self, mask=self.present)._map(widen)

    def _map(self, transform: Callable[[str, Tensor], Tensor]) -> "PromptGroup":
        # a copy, not a new object: what was checked once stays valid and costs no second look
        changed = copy(self)
        for field in fields(self):
            value = getattr(self, field.name)
            if value is not None:
                setattr(changed, field.name, transform(field.name, value))
        return changed


_GRID_FIELDS = (
    "ref_logps",
    "rewards",
    "lengths",
    "mask",
    "ranks",
    "pairing_key",
    "prev_logps",
    "log_sum_sq",
)
_DEEP_FIELDS = (
    "extra_rewards",
    "token_logps",
    "token_ref_logps",
    "old_token_logps",
    "token_kl",
    "token_weights",
    "token_kl_weights",
)
_PROMPT_FIELDS = ("gold_logps", "gold_lengths", "rationale_logps", "sample_logps")
