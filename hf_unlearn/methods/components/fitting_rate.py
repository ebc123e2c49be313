"""A learning rate that fits the original: a share of how far training moved its weights."""

from ...models.base import StartingPoint
from ..protocols import UnlearningRun
from .rewinding import learned_by_training, root_mean_square

HEAD_RATE = 1e-3  # where training moved nothing but the head
USUAL_RATE = 5e-5  # of fine-tuning, where it is not known how far training moved the weights
SCRATCH_RATE = 1e-3  # of training from random weights, which lie as far from others as from trained ones
PATCH_RATE = 17.0  # times the rate of the weights themselves: the factors of an adapter multiply small numbers


def fitting_rate(
    run: UnlearningRun, start: StartingPoint | None, length: float | None, share: float, usual: float
) -> float:
    """Return AdamW's rate for an original that training moved by `length`: a `share` of it where that is known.

    AdamW moves a weight by about its rate in a step. So the same share is a short step for a model that was moved a little, and as
    short a one for a model that was moved far.

    Args:
        run: the run; an adapter takes a larger rate.
        start: where training began, None if that is not known.
        length: root mean square of what training added to a weight, 0 if it moved nothing but the head, None if not known.
        share: the rate as a share of `length`.
        usual: the share that the method takes by itself. Where `length` says nothing, rates for it are known, and the rate grows
            with `share` all the same.
    """
    if length and (start is None or start.pretrained):
        rate = share * length
    else:
        known = USUAL_RATE if length is None else HEAD_RATE if not length else SCRATCH_RATE
        rate = share / usual * known
    return rate if run.patch is None else PATCH_RATE * rate


def learned_length(run: UnlearningRun, start: StartingPoint | None) -> float | None:
    """Return the root mean square of what training added to a weight; None if it is not known where training began."""
    return root_mean_square(learned_by_training(run, start).values())
