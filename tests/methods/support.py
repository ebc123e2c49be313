"""What the tests of single methods share."""

import math

import torch

from hf_unlearn.models.forward import classify, eval_mode, model_inputs


def mean_nll(model, side):
    """Mean negative log-likelihood of the labels in one side of a batch, in float64 and by its definition."""
    with eval_mode(model), torch.no_grad():
        logits = classify(model, model_inputs(side)).double()
    return -logits.log_softmax(-1).gather(1, side["labels"][:, None]).mean().item()


def distance(a, b):
    """Euclidean distance between two tables of tensors."""
    return math.sqrt(sum((a[n] - b[n]).square().sum().item() for n in a))
