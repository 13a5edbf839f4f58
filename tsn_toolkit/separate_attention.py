"""nn.MultiheadAttention with a linear layer for each projection.

torch packs query, key and value into one parameter that is no layer's weight, so that nothing can give them codes, masks or quantizers. Here they are
layers like any other. torch.nn.TransformerEncoderLayer and TransformerDecoderLayer take the module in place of their own.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.nn import functional


class AttentionByHeads(nn.Module):
    """The forward of nn.MultiheadAttention, up to the order of float sums, whatever holds its projections.

    Heads are counted from the width of the projections, so that it runs with fewer of them.
    """

    head_dim: int
    dropout: float
    batch_first: bool
    out_proj: Any

    def forward(  # noqa: PLR0913, the signature is torch's
        self,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        key_padding_mask: torch.Tensor | None = None,
        need_weights: bool = True,
        attn_mask: torch.Tensor | None = None,
        average_attn_weights: bool = True,
        is_causal: bool = False,
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Arguments, shapes and result as in nn.MultiheadAttention; `is_causal` says of `attn_mask` what that says itself."""
        batched = query.ndim == 3
        if not batched:
            query, key, value = (item.unsqueeze(0) for item in (query, key, value))
            key_padding_mask = None if key_padding_mask is None else key_padding_mask.unsqueeze(0)
        elif not self.batch_first:
            query, key, value = (item.transpose(0, 1) for item in (query, key, value))
        q, k, v = (self._heads(item) for item in self._project(query, key, value))
        mask = _joined(attn_mask, key_padding_mask, q)
        weights = None
        if need_weights:
            scores = q @ k.transpose(-2, -1) * self.head_dim**-0.5
            weights = (scores if mask is None else scores + mask).softmax(-1)
            mixed = functional.dropout(weights, self.dropout, self.training) @ v
            weights = weights.mean(1) if average_attn_weights else weights
        else:
            mixed = functional.scaled_dot_product_attention(q, k, v, mask, self.dropout if self.training else 0.0)
        output = self.out_proj(mixed.transpose(1, 2).flatten(2))
        if not batched:
            return output.squeeze(0), None if weights is None else weights.squeeze(0)
        return output if self.batch_first else output.transpose(0, 1), weights

    def _project(self, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Query, key and value, each (n, length, heads * head_dim)."""
        raise NotImplementedError

    def _heads(self, item: torch.Tensor) -> torch.Tensor:
        """(n, length, heads * head_dim) -> (n, heads, length, head_dim)."""
        return item.unflatten(-1, (-1, self.head_dim)).transpose(1, 2)


class SeparateAttention(AttentionByHeads):
    """An nn.MultiheadAttention whose projections are layers; made by `separate_attention_`."""

    def __init__(self, packed: nn.MultiheadAttention) -> None:
        super().__init__()
        self.head_dim, self.dropout, self.batch_first = packed.head_dim, packed.dropout, packed.batch_first
        # Read by torch.nn.TransformerEncoderLayer, which keeps off its fused path where there is no packed bias.
        self._qkv_same_embed_dim, self.in_proj_bias = False, None
        self.q_proj, self.k_proj, self.v_proj = (_linear(weight, bias) for weight, bias in projections_of(packed))
        self.out_proj = _linear(packed.out_proj.weight, packed.out_proj.bias)
        self.train(packed.training)

    @property
    def num_heads(self) -> int:
        """Heads that are left."""
        return self.q_proj.out_features // self.head_dim

    @property
    def embed_dim(self) -> int:
        """Width of queries."""
        return self.q_proj.in_features

    def _project(self, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor) -> tuple[torch.Tensor, ...]:
        return self.q_proj(query), self.k_proj(key), self.v_proj(value)


def projections_of(packed: nn.MultiheadAttention) -> tuple[tuple[torch.Tensor, torch.Tensor | None], ...]:
    """(weight (width, inputs), bias (width,) or None) of query, key and value: views of the packed parameters."""
    if packed.in_proj_weight is None:
        weights = (packed.q_proj_weight, packed.k_proj_weight, packed.v_proj_weight)
    else:
        weights = packed.in_proj_weight.chunk(3)
    return tuple(zip(weights, (None,) * 3 if packed.in_proj_bias is None else packed.in_proj_bias.chunk(3), strict=True))


def separate_attention_(model: nn.Module) -> nn.Module:
    """Replaces every nn.MultiheadAttention, in place, by one with separate layers; no random number is drawn.

    One with learned or zero tokens beside its inputs (`add_bias_kv`, `add_zero_attn`) and subclasses are left as they are.

    Returns:
        The same model; the replacement where it is itself such a module.
    """
    made: dict[nn.Module, SeparateAttention] = {}
    for path, module in tuple(model.named_modules(remove_duplicate=False)):
        if type(module) is not nn.MultiheadAttention or module.bias_k is not None or module.add_zero_attn:
            continue
        separate = made.get(module) or made.setdefault(module, SeparateAttention(module))
        if not path:
            return separate
        parent, _, name = path.rpartition(".")
        setattr(model.get_submodule(parent), name, separate)
    return model


def _linear(weight: torch.Tensor, bias: torch.Tensor | None) -> nn.Linear:
    rows, columns = weight.shape
    layer = nn.Linear(columns, rows, bias=bias is not None, device="meta")  # from meta: draws no random number
    layer.weight = _parameter(weight)
    if bias is not None:
        layer.bias = _parameter(bias)
    return layer


def _parameter(tensor: torch.Tensor) -> nn.Parameter:
    return nn.Parameter(tensor.detach().clone(), requires_grad=tensor.requires_grad)


def _joined(attn_mask: torch.Tensor | None, key_padding_mask: torch.Tensor | None, q: torch.Tensor) -> torch.Tensor | None:
    """Both masks as one to add to scores (n, heads, length, keys)."""
    masks = []
    if attn_mask is not None:
        masks.append(attn_mask if attn_mask.ndim == 2 else attn_mask.unflatten(0, (len(q), -1)))
    if key_padding_mask is not None:
        masks.append(key_padding_mask[:, None, None, :])
    added = [torch.zeros_like(mask, dtype=q.dtype).masked_fill(mask, float("-inf")) if mask.dtype == torch.bool else mask for mask in masks]
    return sum(added[1:], added[0]) if added else None
