"""How fast models relearn forgotten classes in an audit: at which rate, from which rows, and what they then answer."""

import statistics
from collections.abc import Mapping

from torch import Tensor, nn

from ...data.pairs import PreparedRows
from ...data.sampling import drawn_rows
from ...models.processor import Processor
from ..relearning import RELEARNED, RELEARNING_ROWS, relearn
from .model_outputs import Outputs
from .networks import sampled_weights

DRAWS = 3  # repetitions, each from other rows
STEPS = 100  # at most
PROBE_ROWS = 100  # test rows of the forgotten classes, on which relearning is measured
# Adam's rate, as a share of the root mean square by which training anew moves a weight. A step as long as a whole fine-tuning brings
# every class back at once. Models trained from scratch lie so far apart that the most counts.
SHARE, MOST = 0.05, 5e-4


def relearning_rate(original: nn.Module, others: Mapping[str, nn.Module], seed: int) -> float:
    """Return Adam's rate, by how far the models in `others` that are called `retrained` lie from `original`.

    Args:
        others: name -> model. The median over retrained models of the same network counts; without one it is the greatest rate.
        seed: seed of the weights that are compared.
    """
    own = sampled_weights(original, original, seed)
    samples = [sampled_weights(model, original, seed) for name, model in others.items() if name.startswith("retrained")]
    ways = [
        float((sample - own).square().mean().sqrt()) for sample in samples if sample is not None and own is not None
    ]
    return min(MOST, SHARE * statistics.median(ways)) if any(ways) else MOST


def relearning_curves(
    model: nn.Module,
    sets: Mapping[str, PreparedRows],
    processor: Processor,
    original: Outputs,
    in_forgotten_class: Tensor,
    seed: int,
    rate: float,
) -> list[list[tuple[int, float]]]:
    """Return one curve for each draw of rows to learn from; none if the test set has no row of the forgotten classes.

    Args:
        sets: `forget` and `test`.
        processor: prepares and collates the rows.
        original: the original's outputs on `test`. A curve ends at `RELEARNED` of its accuracy on the forgotten classes.
        in_forgotten_class: (test rows,) boolean, true for test rows of the forgotten classes.
        seed: seed of the draws.
        rate: Adam's learning rate.
    """
    if not in_forgotten_class.any():
        return []
    forget = sets["forget"]
    probe = sets["test"].many(in_forgotten_class.nonzero()[:PROBE_ROWS, 0].tolist())
    stop = RELEARNED * original.right[in_forgotten_class].float().mean().item()
    taught = [forget.many(drawn_rows(len(forget), RELEARNING_ROWS, seed + i).tolist()) for i in range(DRAWS)]
    how = {"stop": stop, "limit": STEPS, "every_step": False, "learning_rate": rate}
    return [list(relearn(model, rows, probe, processor, **how)) for rows in taught]  # type: ignore[arg-type]
