"""Counterfactual anchors: inputs that stand in for the data to keep, if there is no retain set."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from tqdm.auto import tqdm

from ...data.pairs import PreparedRows
from ...models.forward import Edit, classify, continuous_input, eval_mode, model_inputs, on_device, replace_by
from ...models.processor import Processor
from ...models.reference import Reference
from ...utils.distributed import own_part, together
from .losses import kl_to_target, total_variation

logger = logging.getLogger(__name__)

ROUNDS = 4
STARTS, STEPS = 256, 12  # and Adam steps of a round
BATCH_SIZE = 64
CONFIDENCE = 0.9  # probability of the goal at which a start has arrived
SMOOTHNESS = 0.03  # weight of the total variation in the first round
MAX_ROLL = 2  # pixels that an image is rolled by at most in the first round


class CounterfactualAnchors:
    """Forget inputs moved into the kept classes, and the original's outputs there without the forgotten classes.

    Each start is a forget sample, each goal a kept class in turn; Adam descends the cross-entropy of the goal on the frozen
    original. Images are also rolled by up to 2 pixels at random and pay for total variation, which keeps them closer to real
    images. There are up to four rounds. A start to which the original gives its goal with probability 0.9 stops moving. The
    others go on with a quarter of the penalty and half the rolling: hard ones arrive too, and easy ones stay smooth and cheap.
    Starts that never arrive are dropped, because inputs that stay in the forgotten class would block forgetting.

    Args:
        count: number of starts.
        steps: Adam steps of a round.
        step_size: Adam's learning rate in units of the inputs' standard deviation.
        seed: seed of the choice of starts.
    """

    def __init__(self, count: int = STARTS, steps: int = STEPS, step_size: float = 0.1, seed: int = 0) -> None:
        self.count, self.steps, self.step_size, self.seed = count, steps, step_size, seed
        self.rows: list[dict[str, Tensor]] = []
        self.inputs: list[Tensor] = []
        self.targets = torch.empty(0)

    def build(
        self, model: nn.Module, forget: PreparedRows, processor: Processor, reference: Reference, progress: bool = False
    ) -> CounterfactualAnchors:
        """Make the anchors from the forget rows, with a progress bar if `progress`.

        Raises:
            ValueError: no class is kept, or no start arrives.
        """
        self.processor = processor
        device, classes = next(model.parameters()).device, reference.logits.shape[-1]
        kept = reference.kept_classes
        if not kept:
            raise ValueError("Counterfactual anchors need a kept class, and every class of the head is forgotten.")
        generator = torch.Generator().manual_seed(self.seed)
        starts = torch.randperm(len(forget), generator=generator)[: self.count].tolist()
        starts = (starts * (self.count // len(starts) + 1))[: self.count]
        goals = torch.tensor([kept[i % len(kept)] for i in range(self.count)], device=device)
        if processor.text:
            logger.warning(
                "Anchors in embedding space stand in for texts only partly: up to 26 points of kept accuracy were lost where it "
                "was measured. Check the result on data to keep; `JiT` with `update='head'` kept all of it there."
            )
        trainable = [p for p in model.parameters() if p.requires_grad]
        for p in trainable:
            p.requires_grad_(False)
        targets: list[Tensor] = []
        batches = range(0, self.count, BATCH_SIZE)
        own = own_part(len(batches))
        try:
            with eval_mode(model):
                for at in tqdm(batches[own.start : own.stop], "Counterfactual anchors", disable=not progress):
                    rows = forget.many(starts[at : at + BATCH_SIZE])
                    batch = on_device(model, processor.collate(rows))
                    inputs, goal = model_inputs(batch), goals[at : at + BATCH_SIZE]
                    moved, logits = self._move(model, inputs, goal, reference)
                    arrived = (logits.argmax(-1) == goal).nonzero().flatten().tolist()
                    for i in arrived:
                        self._keep(inputs, moved, i)
                    targets.append(reference.struck_out(logits)[arrived].softmax(-1).cpu())
        finally:
            for p in trainable:
                p.requires_grad_(True)
        self.rows, self.inputs = together(self.rows), together(self.inputs)
        self.targets = torch.cat([torch.empty(0, classes), *together(targets)])
        if not len(self.targets):
            raise ValueError("No counterfactual anchor arrived in a kept class. Use `anchors=False` or a retain set.")
        return self

    def _move(
        self, model: nn.Module, inputs: Mapping[str, Any], goal: Tensor, reference: Reference
    ) -> tuple[Tensor, Tensor]:
        """Return the moved inputs, and the original's logits there."""
        x, mask = continuous_input(model, inputs)
        moved, mask = x.clone(), mask.expand_as(x)
        logits = torch.zeros(len(x), reference.logits.shape[-1], device=x.device)
        images = "pixel_values" in inputs
        generator = torch.Generator().manual_seed(self.seed)
        left, smoothness, roll = torch.arange(len(x), device=x.device), SMOOTHNESS, MAX_ROLL

        def shifted(by: Tensor) -> Tensor:
            y = start + by * mask[left]
            return y.clamp(reference.input_min, reference.input_max) if images else y

        for _ in range(ROUNDS):
            part, start = {k: v[left] for k, v in inputs.items()}, moved[left]
            shift = torch.zeros_like(start, requires_grad=True)
            optimizer = torch.optim.Adam([shift], lr=self.step_size * reference.input_std)
            for _ in range(self.steps):
                with torch.enable_grad():
                    y = shifted(shift)
                    if images:
                        by = torch.randint(-roll, roll + 1, (2,), generator=generator).tolist()
                        y = y.roll(by, dims=(-2, -1))
                    loss = F.cross_entropy(classify(model, part, replace_by(y)).float(), goal[left], reduction="sum")
                    if images:
                        loss = loss + smoothness * total_variation(y / reference.input_std)
                    (shift.grad,) = torch.autograd.grad(loss, shift)
                optimizer.step()
            with torch.no_grad():
                moved[left] = shifted(shift)
                logits[left] = classify(model, part, replace_by(moved[left])).float()
            left = left[logits[left].softmax(-1).gather(1, goal[left, None])[:, 0] < CONFIDENCE]
            if not len(left):
                break
            smoothness, roll = smoothness / 4, roll // 2
        return moved, logits

    def _keep(self, inputs: Mapping[str, Any], moved: Tensor, i: int) -> None:
        """Store moved input `i`: its pixels, or its embeddings and token ids without padding."""
        if "pixel_values" in inputs:
            self.rows.append({"pixel_values": moved[i].cpu()})
            return
        real = inputs["attention_mask"][i] > 0 if "attention_mask" in inputs else slice(None)
        self.rows.append({k: v[i][real].cpu() for k, v in inputs.items()})
        self.inputs.append(moved[i][real].float().cpu())

    def loss(self, model: nn.Module, seeds: Tensor) -> Tensor:
        """Return the mean KL divergence from the kept outputs, in nats, on one anchor per seed."""
        chosen = [int(s % len(self.rows)) for s in seeds.tolist()]
        inputs = on_device(model, self.processor.collate([self.rows[i] for i in chosen]))
        edit: Edit | None = None
        if self.inputs:
            mask = inputs["attention_mask"] > 0
            anchors = torch.zeros((*mask.shape, self.inputs[0].shape[-1]), device=mask.device)
            for row, real, i in zip(anchors, mask, chosen, strict=True):
                row[real] = self.inputs[i].to(mask.device)

            # Data parallel takes parameters that a forward leaves out for done, and other terms do use the embeddings.
            def edit(embedded: Tensor) -> Tensor:
                return anchors + 0.0 * embedded

        with eval_mode(model):
            logits = classify(model, inputs, edit)
        return kl_to_target(self.targets[chosen].to(seeds.device), logits)
