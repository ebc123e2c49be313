"""Tiny models built from configurations, untrained and trained."""

import copy
import os
from functools import lru_cache
from pathlib import Path
from unittest.mock import patch

import torch
import transformers
from safetensors.torch import load_file, save_file

from hf_unlearn.models.forward import eval_mode, model_inputs
from hf_unlearn.models.processor import Processor
from hf_unlearn.utils.files import written_atomically
from tests.support.data import CLASSES, SIZE, WORDS, data_for, processing_class


def build(arch, labels=CLASSES, dropout=0.0):
    """Build an untrained model with a fixed seed. It is the same with every supported version of torch."""
    torch.manual_seed(1)
    with patch("torch.nn.init._no_grad_trunc_normal_", _normal):
        return _build(arch, labels, dropout)


def _normal(tensor, mean, std, *bounds, **kwargs):
    """Draw as torch does since 2.13 if the bounds are far from the mean. Older versions draw other numbers."""
    with torch.no_grad():
        return tensor.normal_(mean, std)


def _build(arch, labels, dropout):
    t = transformers
    if arch == "resnet":
        return t.ResNetForImageClassification(
            t.ResNetConfig(embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1], layer_type="basic", num_labels=labels)
        )
    if arch == "convnext":
        return t.ConvNextForImageClassification(
            t.ConvNextConfig(
                patch_size=2,
                hidden_sizes=[8, 16],
                num_stages=2,
                depths=[1, 2],
                num_labels=labels,
                image_size=SIZE,
                drop_path_rate=0.0,
                layer_scale_init_value=1.0,
                initializer_range=0.1,
            )
        )
    if arch == "swin":
        return t.SwinForImageClassification(
            t.SwinConfig(
                image_size=SIZE,
                patch_size=2,
                embed_dim=16,
                depths=[1, 1],
                num_heads=[2, 2],
                window_size=4,
                num_labels=labels,
                drop_path_rate=0.0,
                initializer_range=0.1,
                use_absolute_embeddings=True,
            )
        )
    common = {
        "hidden_size": 16,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "intermediate_size": 32,
        "num_labels": labels,
        "initializer_range": 0.1,
        "hidden_dropout_prob": dropout,
        "attention_probs_dropout_prob": dropout,
    }
    if arch == "vit":
        return t.ViTForImageClassification(t.ViTConfig(image_size=SIZE, patch_size=8, **common))
    if arch == "deit":
        return t.DeiTForImageClassification(t.DeiTConfig(image_size=SIZE, patch_size=8, **common))
    if arch == "dinov2":
        common["mlp_ratio"] = common.pop("intermediate_size") // common["hidden_size"]
        return t.Dinov2ForImageClassification(t.Dinov2Config(image_size=SIZE, patch_size=8, **common))
    vocabulary = {"vocab_size": len(WORDS) + 4, "pad_token_id": 0, "max_position_embeddings": 32}
    if arch == "bert":
        return t.BertForSequenceClassification(t.BertConfig(**common, **vocabulary))
    if arch == "roberta":
        return t.RobertaForSequenceClassification(
            t.RobertaConfig(**common, **vocabulary, type_vocab_size=1, bos_token_id=2, eos_token_id=3)
        )
    if arch == "distilbert":
        return t.DistilBertForSequenceClassification(
            t.DistilBertConfig(
                dim=16,
                hidden_dim=32,
                n_layers=2,
                n_heads=2,
                num_labels=labels,
                initializer_range=0.1,
                dropout=dropout,
                attention_dropout=dropout,
                seq_classif_dropout=dropout,
                **vocabulary,
            )
        )
    raise ValueError(arch)


@lru_cache
def _taught(arch, dropout):
    """Train a model once for this process, and for all processes whose environment names the same folder `TAUGHT`."""
    model, shelf = build(arch, dropout=dropout), os.environ.get("TAUGHT")
    file = Path(shelf or ".", f"{arch}-{dropout}.safetensors")
    if shelf and file.is_file():
        model.load_state_dict(load_file(file))
        return model.eval()
    processor = Processor(model, processing_class(arch))
    *batches, held_out = (processor.collate([processor(r) for r in data_for(arch, 96, seed)]) for seed in range(5, 10))
    optimiser = torch.optim.Adam(model.parameters(), lr=5e-3)
    for step in range(80):
        optimiser.zero_grad()
        model(**batches[step % len(batches)]).loss.backward()
        optimiser.step()
    with eval_mode(model), torch.no_grad():
        right = (model(**model_inputs(held_out)).logits.argmax(-1) == held_out["labels"]).float().mean()
    assert right > 0.9, f"{arch} knows only {right:.0%} of its test set"
    if shelf:
        with written_atomically(file) as partial:
            save_file(model.state_dict(), partial)
    return model.eval()


def trained(arch, dropout=0.0):
    """Return a fresh copy of a trained model."""
    return copy.deepcopy(_taught(arch, dropout))


def state(model):
    """Copy every parameter and buffer."""
    return {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}


def changed(before, after):
    """Return the names of the tensors that are not bit-equal."""
    assert before.keys() == after.keys()
    return {name for name in before if not torch.equal(before[name], after[name])}
