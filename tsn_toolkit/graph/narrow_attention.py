"""nn.MultiheadAttention with fewer heads than its embedding has room for.

torch's own module takes the width of a head as `embed_dim // num_heads`, so it cannot run without some of its heads. This one keeps the width.
"""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional

from tsn_toolkit.separate_attention import AttentionByHeads, projections_of


class NarrowMultiheadAttention(AttentionByHeads, nn.MultiheadAttention):
    """Computes what nn.MultiheadAttention computes with `num_heads` heads of width `head_dim`, whose product may be below `embed_dim`.

    Not built by its constructor: `narrow_attention_` turns an existing module into one.
    """

    def _project(self, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor) -> tuple[torch.Tensor, ...]:
        return tuple(functional.linear(item, *projection) for item, projection in zip((query, key, value), projections_of(self), strict=True))


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
