"""What several tests of models share."""

import torch
from peft import LoraConfig, get_peft_model

from hf_unlearn import JiT
from hf_unlearn.models.forward import classify, eval_mode, model_inputs
from hf_unlearn.models.processor import Processor
from tests.support.data import data_for, processing_class
from tests.support.models import build, trained
from tests.support.runs import forget_batch, trainer_for


def batch_of(arch, n=6):
    """The first rows of the data of `arch`, with labels."""
    processor = Processor(build(arch), processing_class(arch))
    return processor.collate([processor(row) for row in data_for(arch, n)])


def patched(arch, folder, method=None, config="lora", **changes):
    """A trainer of an adapter."""
    return trainer_for(arch, folder, method or JiT(num_perturbations=2), peft_config=config, **changes)


@torch.no_grad()
def logits(model, arch, n=8):
    """Of the first rows, in eval mode."""
    with eval_mode(model):
        return classify(model, model_inputs(forget_batch(arch, n)["forget"]))


def perturb(patch):
    """Move what may move, as a run does."""
    parameters = dict(patch.model.named_parameters())
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name in patch.names:
            parameters[name].add_(0.3 * torch.randn(parameters[name].shape, generator=generator))


RANDOM = {"r": 2, "init_lora_weights": False}


def adapted(arch="vit", **changes):
    """A `PeftModel` whose adapter changes the outputs."""
    targets = {"bert": ["query"], "resnet": ["convolution"]}.get(arch, ["q_proj"])
    return get_peft_model(trained(arch), LoraConfig(**{**RANDOM, "target_modules": targets, **changes}))


def first_row(arch="vit"):
    """A batch of one row, on which a `Patch` is checked."""
    return forget_batch(arch, 1)["forget"]
