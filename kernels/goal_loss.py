"""The loss on every cell as the goal at once: cross-entropy between values and targets.

    logit[b, g] = head[a_tm1[b]] . z_H[b, 1 + g]        value = sigmoid(logit)
    loss = 1/B sum over b, g of weight[b, g] * (softplus(logit[b, g]) - target[b, g] * logit[b, g])

z_H [B, T, D] (T = cells + 1, token 0 is no cell), head [A, D] float32, a_tm1 [B] int64, target and
weight [B, cells] float32 -> scalar float32. No gradient flows into target and weight.

Source: values of all goals from one transition, Kaelbling 1993 (Learning to Achieve Goals) and LEO,
arXiv 2605.23551.
"""

import torch
import torch.nn.functional as F
from torch import Tensor


def goal_loss_reference(
    z_H: Tensor, head: Tensor, a_tm1: Tensor, target: Tensor, weight: Tensor
) -> Tensor:
    of_action = F.embedding(a_tm1, head)  # head[a_tm1] would take -1 for the last action
    logit = torch.einsum("bgd,bd->bg", z_H[:, 1:].to(head.dtype), of_action)
    loss = F.binary_cross_entropy_with_logits(logit, target.detach(), reduction="none")
    return (weight.detach() * loss).sum() / len(z_H)
