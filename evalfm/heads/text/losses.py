"""What learners of a context add to the cross-entropy: closeness to sentences, and to what sentences would say.

Shapes: images v [B, D], learnt texts t [C, D] and sentences e [n, C, D] are of length 1; logits are [B, C]. s is the
tower's logit scale.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional


def squared_difference(texts: Tensor, centres: Tensor) -> Tensor:
    """Mean over classes and dimensions of (t − ē)², BiomedCoOp's SCCM before its weight (arXiv 2411.15232).

    Of vectors of length 1 it is (2 − 2 · mean cosine) / D.
    """
    return functional.mse_loss(texts, centres)


def absolute_difference(texts: Tensor, centres: Tensor) -> Tensor:
    """Mean over classes and dimensions of |t − e|, Biomed-DPT's before its weight (arXiv 2505.05189)."""
    return functional.l1_loss(texts, centres)


def distillation(teacher: Tensor, student: Tensor) -> Tensor:
    """KL(softmax teacher ‖ softmax student) over all logits [B, C], divided by B · C; 0 where they agree."""
    divergence = functional.kl_div(student.log_softmax(-1), teacher.log_softmax(-1), reduction="sum", log_target=True)
    return divergence / student.numel()


def best_logits(images: Tensor, sentences: Tensor, scale: float) -> Tensor:
    """Of each image and sentence number the largest logit over the classes, max over c of s · v · e_i,c: [B, n]."""
    return scale * torch.einsum("bd,ncd->bnc", images, sentences).amax(-1)


def selected(scores: Tensor, tau: float) -> Tensor:
    """Which sentences [n] have a standard score of at most ``tau`` in absolute value (KDSP).

    ``scores`` [n] are batch means of ``best_logits``. The authors first subtract the median and divide by the median
    absolute deviation, and then standardise the result by its mean and standard deviation (n − 1); the second step
    undoes the first, so it is left out and a median absolute deviation of 0 does no harm. Equal scores, and a single
    one, are all kept.
    """
    deviation = scores.std() if len(scores) > 1 else scores.new_zeros(())
    # Rounding alone is no spread.
    if float(deviation) <= 1e-6 * float(scores.abs().max()):
        return torch.ones_like(scores, dtype=torch.bool)
    return ((scores - scores.mean()) / deviation).abs() <= tau


def centre(sentences: Tensor) -> Tensor:
    """The mean over sentences [n, C, D] of each class, brought to length 1: [C, D]."""
    return functional.normalize(sentences.mean(0), dim=-1)
