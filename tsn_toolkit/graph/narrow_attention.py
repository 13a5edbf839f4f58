"""nn.MultiheadAttention with fewer heads than its embedding has room for.

torch's own module takes the width of a head as `embed_dim // num_heads`, so it cannot run without some of its heads. This one keeps the width.
"""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional


class NarrowMultiheadAttention(nn.MultiheadAttention):
    """Computes what nn.MultiheadAttention computes with `num_heads` heads of width `head_dim`, whose product may be below `embed_dim`.

    Not built by its constructor: `narrow_attention_` turns an existing module into one.
    """

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
        """Arguments, shapes and result as in nn.MultiheadAttention."""
        batched = query.ndim == 3
        if not batched:
            query, key, value = (item.unsqueeze(0 if self.batch_first else 1) for item in (query, key, value))
            key_padding_mask = None if key_padding_mask is None else key_padding_mask.unsqueeze(0)
        if not self.batch_first:
            query, key, value = (item.transpose(0, 1) for item in (query, key, value))
        q, k, v = (self._heads(item) for item in self._project(query, key, value))
        scores = q @ k.transpose(-2, -1) * self.head_dim**-0.5
        if attn_mask is not None:
            scores = scores + self._additive(attn_mask if attn_mask.ndim == 2 else attn_mask.view(len(q), -1, *attn_mask.shape[1:]), scores)
        if key_padding_mask is not None:
            scores = scores + self._additive(key_padding_mask[:, None, None, :], scores)
        weights = scores.softmax(-1)
        output = functional.dropout(weights, self.dropout, self.training) @ v
        output = self.out_proj(output.transpose(1, 2).flatten(2))
        weights = weights.mean(1) if average_attn_weights else weights
        if not self.batch_first:
            output = output.transpose(0, 1)
        if not batched:
            output, weights = output.squeeze(0 if self.batch_first else 1), weights.squeeze(0)
        return output, weights if need_weights else None

    def _project(self, *inputs: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Query, key and value, each (n, length, heads * head_dim)."""
        if self.in_proj_weight is not None:
            weights = self.in_proj_weight.chunk(3)
        else:
            weights = (self.q_proj_weight, self.k_proj_weight, self.v_proj_weight)
        biases = (None,) * 3 if self.in_proj_bias is None else self.in_proj_bias.chunk(3)
        return tuple(functional.linear(item, weight, bias) for item, weight, bias in zip(inputs, weights, biases))

    def _heads(self, item: torch.Tensor) -> torch.Tensor:
        """(n, length, heads * head_dim) -> (n, heads, length, head_dim)."""
        return item.view(*item.shape[:-1], self.num_heads, self.head_dim).transpose(1, 2)

    def _additive(self, mask: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        """A mask as torch takes it: True forbids, floats are added."""
        return torch.zeros_like(mask, dtype=scores.dtype).masked_fill(mask, float("-inf")) if mask.dtype == torch.bool else mask


def narrow_attention_(module: nn.MultiheadAttention) -> None:
    """Let `module` run with the heads and the inputs that its weights have left; one that has all of them is left alone."""
    rows, width = module.out_proj.weight.shape
    projections = (module.in_proj_weight, module.q_proj_weight, module.k_proj_weight, module.v_proj_weight)
    widths = {projection.shape[1] for projection in projections if projection is not None}
    if rows == width == module.embed_dim and widths <= {module.embed_dim, module.kdim, module.vdim}:
        return
    module.__class__ = NarrowMultiheadAttention
    module.num_heads = width // module.head_dim
    module.out_proj.in_features = width
    module._qkv_same_embed_dim = False  # keeps nn.TransformerEncoderLayer off its fused path, which would take the width from `embed_dim`
