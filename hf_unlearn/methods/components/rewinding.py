"""Going back from the original towards where its training began: by one share, or by what forget rows read and others do not."""

import math
from collections.abc import Iterable, Mapping, Sequence

import numpy as np
import torch
from torch import Tensor, nn

from ...data.pairs import PreparedRows
from ...data.sampling import DrawnRows
from ...models.adapters import is_adapted, norms_to_hold
from ...models.base import StartingPoint
from ...models.forward import classify, eval_mode, model_inputs, on_device, unwrap
from ...models.prediction import answers, pooled_features
from ...models.structure import last_layers
from ...utils.distributed import filled_part, joined_outputs, own_part
from ...utils.large_tensors import joined
from ..protocols import UnlearningRun
from .input_moments import excess_filter, second_moments

ROWS, BATCH = 128, 64  # of each set, that tell how the original and the rewound model answer
FEWEST = 4  # rows of a class, whose mean is taken
NEW_ROW = 0.02  # standard deviation with which transformers draws the weights of a head
WIDEST = 1024  # most inputs of a layer that goes back by direction: the time grows with their third power


def learned_by_training(run: UnlearningRun, start: StartingPoint | None) -> dict[str, Tensor]:
    """Return what training added to the original's parameters, for those whose starting point is known.

    These are the parameters that may move, and under a patch the frozen ones below it. An adapter that the original was trained
    with began at zero, in the second factor of each of its products.
    """
    parameters = dict(unwrap(run.model).named_parameters())
    if is_adapted(run.model) and run.patch is None:
        return {n: p.detach().clone() for n, p in parameters.items() if ".lora_B." in n and p.requires_grad}
    if start is None:
        return {}
    began = dict(start.model.named_parameters())
    found = {}
    for name, parameter in parameters.items():
        below = name.removeprefix("base_model.model.").replace(".base_layer.", ".")  # as PEFT names what it adapts
        if below in start.shared and (parameter.requires_grad or run.patch is not None):
            found[name] = parameter.detach() - began[below].detach().to(parameter.device)
    return found


def root_mean_square(tensors: Iterable[Tensor]) -> float | None:
    """Return the root mean square of all elements; None if there are none."""
    total, count = 0.0, 0
    for tensor in tensors:
        total, count = total + float(tensor.double().square().sum()), count + tensor.numel()
    return math.sqrt(total / count) if count else None


@torch.no_grad()
def rewind(
    run: UnlearningRun, learned: Mapping[str, Tensor], share: float, kept: PreparedRows, contrast: float = 0.0
) -> None:
    """Go back to `share` of the way that training went, in place, and measure the BatchNorm statistics anew on retain rows.

    With a `contrast` λ > 0, linear layers of up to `WIDEST` inputs go back by direction instead. What training added to such a
    layer, Δ, acts on its inputs x. Let C_f and C_r be the means of x xᵀ over the tokens of forget and of retain rows, with a 1
    in x for the bias, and let C_f u = ρ C_r u. Of what Δ makes of the direction u is left the share

        1 / (1 + λ max(ρ − 1, 0))

    So the layer answers retain rows nearly as before, and what forget rows have more of as the base does. The share 1 / (1 + λρ)
    is the merge of original and base by RegMean (arXiv 2212.09849), which also takes back what all rows have.

    Args:
        run: the run. Its model still is the original.
        learned: what `learned_by_training` returned.
        share: share of the way from the base to the original, in [0, 1], for all other weights.
        kept: retain rows.
        contrast: λ. Default 0, one share for all weights.
    """
    if not learned or run.patch is not None or (share == 1 and not contrast):  # a patch leaves the original as it is
        return
    parameters = dict(unwrap(run.model).named_parameters())
    done = _rewind_by_direction(run, learned, kept, contrast) if contrast else set()
    for name in learned.keys() - done:
        parameters[name].sub_(learned[name], alpha=1 - share)
    _refresh_statistics(run, kept)


def _rewind_by_direction(
    run: UnlearningRun, learned: Mapping[str, Tensor], kept: PreparedRows, contrast: float
) -> set[str]:
    """Take back what linear layers learned of directions that forget rows have more of. Returns the names of their parameters."""
    layers = {
        name: layer
        for name, layer in unwrap(run.model).named_modules()
        if isinstance(layer, nn.Linear) and f"{name}.weight" in learned and layer.in_features <= WIDEST
    }
    wanted, unwanted = (second_moments(run, layers, rows) for rows in (kept, run.forget_rows))
    done: set[str] = set()
    last, back = "", torch.empty(0)
    for name, (first, moment) in wanted.items():
        layer, weight, bias = layers[name], f"{name}.weight", f"{name}.bias"
        done |= {weight, bias} & learned.keys()
        if first not in unwanted:  # no forget row comes there
            continue
        if first != last:  # layers that read the same stand together
            last, back = first, excess_filter(moment, unwanted[first][1], contrast)
        added = learned[weight].cpu().double()
        column = learned[bias].cpu().double() if bias in learned else added.new_zeros(len(added))
        moved = (torch.cat([added, column[:, None]], 1) @ back).to(layer.weight)
        layer.weight.sub_(moved[:, :-1])
        if bias in learned:
            layer.bias.sub_(moved[:, -1])
    return done


def _refresh_statistics(run: UnlearningRun, kept: PreparedRows) -> None:
    """Measure the BatchNorm statistics on retain rows: those of the original do not fit other weights."""
    model = run.model
    held = norms_to_hold(model, [n for n, p in unwrap(model).named_parameters() if p.requires_grad])
    norms = [m for m in model.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm) and m.track_running_stats]
    norms = [m for m in norms if not any(m is other for other in held)]
    if not norms:
        return
    former = [(m.momentum, m.training) for m in norms]
    with eval_mode(model):
        for norm in norms:
            norm.reset_running_stats()
            norm.momentum, norm.training = None, True  # the mean over all batches
        for first in range(0, min(ROWS, len(kept)), BATCH):
            batch = run.processor.collate(kept.many(range(first, min(first + BATCH, ROWS, len(kept)))))
            classify(model, model_inputs(on_device(model, batch)))
    for norm, (momentum, training) in zip(norms, former, strict=True):
        norm.momentum, norm.training = momentum, training


@torch.no_grad()
def renew_head_rows(run: UnlearningRun, kept: PreparedRows, before: Tensor) -> None:
    """Give the forgotten classes rows in the last layer as if no training row had ever been of these classes.

    Each row w is drawn anew, as at the start of a training. The smallest change then makes it as unlikely as the original finds
    the class on retain rows, which is how a retrained model has learned to leave it out: on the retain rows that are answered with
    one class, its mean logit is the original's, and on forget rows its mean distance below the kept classes is what it is on
    retain rows. A bias becomes the mean of the others.

    Args:
        kept: retain rows.
        before: the original's logits on the first of these (m, classes).
    """
    model, gone = run.model, list(run.reference.forgotten_classes)
    layers = [layer for layer in last_layers(model) if layer.weight.requires_grad]
    if not layers:
        return
    others = run.reference.kept_classes
    retained, _ = _features_and_level(run, kept, len(before), others)
    forgotten, level = _features_and_level(run, run.forget_rows, ROWS, others)
    answer = before[:, others].argmax(-1)
    counts = answer.bincount(minlength=len(others))
    groups = [answer == c for c in range(len(others)) if counts[c] >= FEWEST] or [
        torch.ones_like(answer, dtype=torch.bool)
    ]
    means = torch.stack([*(retained[group].mean(0) for group in groups), forgotten.mean(0)])
    absent = [c for i, c in enumerate(others) if not counts[i]]
    generator = torch.Generator().manual_seed(run.args.seed)
    for layer in layers:
        if layer.in_features != means.shape[1]:  # the factors of an adapter
            continue
        former = layer.weight.detach().float().cpu().clone()
        # Where a kept class has no rows at hand, its own row in the layer shows the direction in which its inputs lie.
        centres = torch.cat([means, former[absent]])
        inverse = torch.linalg.pinv(centres.double(), rtol=1e-2).float()
        for c in gone:
            gap = float((before[:, others].logsumexp(-1) - before[:, c]).mean())
            row = torch.empty(means.shape[1]).normal_(0.0, NEW_ROW, generator=generator)
            bias = 0.0 if layer.bias is None else float(layer.bias[others].mean())
            wanted = torch.tensor([*(float(before[group, c].mean()) for group in groups), level - gap]) - bias
            wanted = torch.cat([wanted, former[absent] @ former[c]])
            layer.weight[c] = (row + inverse @ (wanted - centres @ row)).to(layer.weight)
            if layer.bias is not None:
                layer.bias[c] = bias


def _features_and_level(run: UnlearningRun, rows: PreparedRows, count: int, others: list[int]) -> tuple[Tensor, float]:
    """Return what the last layer reads for the first rows (m, d), and the mean log of the sum of exp of the logits of `others`."""
    drawn = DrawnRows(rows, np.arange(min(count, len(rows))))
    read = list(answers(run.model, drawn, run.processor.collate, BATCH, features=True, any_order=True))
    logits = torch.cat([a.logits for a in read]).float()
    features = joined([a.features.float().cpu() for a in read], [a.places for a in read])  # type: ignore[union-attr]
    return features, float(logits[:, others].logsumexp(-1).mean())


def read_features(
    run: UnlearningRun, model: nn.Module, rows: PreparedRows, depths: Sequence[float]
) -> tuple[list[Tensor], Tensor | None]:
    """Return features (n, d) at each of `depths`, and labels (n,), of all rows; see `pooled_features`. Processes share the rows."""
    part = own_part(len(rows))
    drawn = DrawnRows(rows, np.array(filled_part(len(rows))))
    found, labels = pooled_features(model, drawn, run.processor.collate, run.args.eval_batch_size, depths)
    own = None if labels is None else labels[: len(part)]
    whole = [joined_outputs(features[: len(part)], own, len(rows)) for features in found]
    return [features for features, _ in whole], whole[0][1]
