"""What is asked of replayed examples: their labels (ER), the logits that the network gave them once (DER), or both (DER++).

labels   CE(visible logits, y)                                                                Chaudhry et al., "On tiny episodic memories", 2019
logits   mean over competing logits that there were then of (z - z_stored)^2                  Buzzega et al., "Dark experience", NeurIPS 2020
"""

from __future__ import annotations

import torch
from torch.nn import functional

from tsn_toolkit.parts.head_rows import HeadRows


def label_loss(logits: torch.Tensor, rows: torch.Tensor, head: HeadRows) -> torch.Tensor:
    """Mean cross entropy (scalar) over the competing logits.

    Args:
        logits: float (n, k).
        rows: int64 (n,), the logit of each label.
        head: which logits compete.
    """
    return functional.cross_entropy(head.visible(logits, rows), rows)


def logit_loss(logits: torch.Tensor, stored: torch.Tensor, width: torch.Tensor, rows: torch.Tensor, head: HeadRows) -> torch.Tensor:
    """Mean squared distance (scalar) to stored logits; logits that came later or do not compete for the example do not count.

    Args:
        logits: float (n, k), of the network now.
        stored: float (n, m), m <= k, of the network then.
        width: int64 (n,), number of logits that the network had then.
        rows: int64 (n,), the logit of each label.
        head: which logits compete.
    """
    count = stored.shape[1]
    counts = (torch.arange(count, device=width.device)[None, :] < width[:, None]) & head.competing(rows)[:, :count]
    return (logits[:, :count] - stored)[counts].square().mean()
