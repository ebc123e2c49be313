"""Which architectures run: a zero-shot method, one with rows to keep, and a report, each on a tiny random classifier."""

import math

import pytest
import torch
import transformers
from transformers import AutoConfig, AutoModelForImageClassification, AutoModelForSequenceClassification

from hf_unlearn import ForgetRequest, GradientDifference, JiT, UnlearningTrainer
from hf_unlearn.models.architectures import UNFIT, check_architecture
from hf_unlearn.models.processor import Processor
from tests.support.data import CLASSES, SIZE, WORDS, image_data, image_processor, text_data, tokenizer
from tests.support.models import build, changed, state
from tests.support.runs import arguments

LAYERS = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
PATCHES = {**LAYERS, "image_size": SIZE, "patch_size": 8}
STAGES = {"depths": [1] * 4, "hidden_sizes": [8, 8, 16, 16]}
WINDOWS = {
    "image_size": SIZE,
    "patch_size": 2,
    "embed_dim": 16,
    "depths": [1, 1],
    "num_heads": [2, 2],
    "window_size": 4,
}
IMAGES = {
    "beit": {**PATCHES, "intermediate_size": 32},
    "bit": {"embedding_size": 8, "hidden_sizes": [32, 32], "depths": [1, 1], "num_groups": 2},
    "clip": {"vision_config": {**PATCHES, "intermediate_size": 32}},
    "convnextv2": {"image_size": SIZE, "patch_size": 2, "hidden_sizes": [8, 16], "num_stages": 2, "depths": [1, 1]},
    "dinov2": {**PATCHES, "mlp_ratio": 2},
    "mobilenet_v2": {"image_size": SIZE, "depth_multiplier": 0.25},
    "mobilevit": {
        "image_size": 32, "hidden_sizes": [16] * 3, "neck_hidden_sizes": [8, 8, 16, 16, 16, 16, 32], "num_attention_heads": 2,
    },
    "poolformer": STAGES,
    "pvt_v2": {**STAGES, "image_size": 32, "num_attention_heads": [1, 1, 2, 2]},
    "regnet": {"embedding_size": 8, "hidden_sizes": [8, 16], "depths": [1, 1], "groups_width": 8},
    "resnet": {"embedding_size": 8, "hidden_sizes": [8, 16], "depths": [1, 1], "layer_type": "basic"},
    "segformer": {**STAGES, "image_size": 32, "num_attention_heads": [1, 1, 2, 2], "decoder_hidden_size": 16},
    "siglip": {"vision_config": {**PATCHES, "intermediate_size": 32}},
    "swin": WINDOWS,
    "swinv2": WINDOWS,
    "vit": {**PATCHES, "intermediate_size": 32},
}  # fmt: skip

VOCABULARY = {
    "vocab_size": len(WORDS) + 4, "pad_token_id": 0, "cls_token_id": 2, "bos_token_id": 2, "sep_token_id": 3, "eos_token_id": 3,
}  # fmt: skip
ENCODER = {**VOCABULARY, **LAYERS, "intermediate_size": 32, "max_position_embeddings": 40}
DECODER = {**ENCODER, "num_key_value_heads": 2, "head_dim": 8}
GPT = {**VOCABULARY, "n_positions": 40, "n_embd": 16, "n_layer": 2, "n_head": 2}
T5 = {**VOCABULARY, "d_model": 16, "num_layers": 2, "num_heads": 2, "d_kv": 8, "d_ff": 32, "decoder_start_token_id": 0}
BART = {
    **VOCABULARY, "d_model": 16, "max_position_embeddings": 40, "decoder_start_token_id": 3,
    **{f"{side}_{what}": n for side in ("encoder", "decoder") for what, n in (("layers", 1), ("attention_heads", 2), ("ffn_dim", 32))},
}  # fmt: skip
DISENTANGLED = {**ENCODER, "relative_attention": True, "pos_att_type": ["p2c", "c2p"], "pooler_hidden_size": 16}
TEXTS = {
    "albert": {**ENCODER, "embedding_size": 16},
    "bart": BART,
    "bert": ENCODER,
    "big_bird": {**ENCODER, "attention_type": "original_full"},
    "deberta": DISENTANGLED,
    "deberta-v2": DISENTANGLED,
    "distilbert": {
        **VOCABULARY,
        "dim": 16,
        "hidden_dim": 32,
        "n_layers": 2,
        "n_heads": 2,
        "max_position_embeddings": 40,
    },
    "electra": {**ENCODER, "embedding_size": 16},
    "gemma3_text": DECODER,
    "gpt2": GPT,
    "gpt_neox": ENCODER,
    "llama": DECODER,
    "longformer": {**ENCODER, "attention_window": [8, 8]},
    "mistral": DECODER,
    "modernbert": ENCODER,
    "mpnet": ENCODER,
    "mt5": T5,
    "qwen2": DECODER,
    "roberta": ENCODER,
    "t5": T5,
    "xlm-roberta": ENCODER,
    "xlnet": {**VOCABULARY, "d_model": 16, "n_layer": 2, "n_head": 2, "d_inner": 32},
}


def inputs_of(data, processing_class):
    """What the model reads, made by the image processor or tokenizer itself."""
    if "text" in data.column_names:
        return processing_class(data["text"][:], padding=True, return_tensors="pt")
    return processing_class(data["image"][:], return_tensors="pt")


@torch.no_grad()
def share(model, inputs, labels):
    return (model.eval()(**inputs).logits.argmax(-1) == torch.tensor(labels)).float().mean().item()


@pytest.mark.slow
@pytest.mark.parametrize(
    "method",
    [JiT(num_perturbations=2), pytest.param(GradientDifference(), marks=pytest.mark.slow)],
    ids=["jit", "gradient_difference"],
)
@pytest.mark.parametrize("arch", [*IMAGES, *TEXTS])
def test_a_method_and_its_report_run(tmp_path, arch, method):
    torch.manual_seed(1)
    text = arch in TEXTS
    sizes = (TEXTS if text else IMAGES)[arch]
    auto = AutoModelForSequenceClassification if text else AutoModelForImageClassification
    model = auto.from_config(AutoConfig.for_model(arch, num_labels=CLASSES, **sizes))
    for weight in (p for p in model.parameters() if p.ndim > 1):
        torch.nn.init.kaiming_normal_(weight)  # the usual start lets inputs of a deep model fade away
    processing_class = tokenizer() if text else image_processor(sizes.get("image_size", SIZE))
    train, test = ((text_data if text else image_data)(n, seed) for n, seed in ((24, 0), (12, 5)))
    inputs, labels = inputs_of(test, processing_class), test["label"][:]
    before, known = state(model), share(model, inputs, labels)
    split = ForgetRequest(label=1).split(train)
    trainer = UnlearningTrainer(
        model,
        # `JiT` takes no step on a class that the model does not know.
        arguments(tmp_path, max_steps=2, forget_kind="samples" if method.name == "jit" else "class"),
        method,
        split.forget,
        split.retain,
        processing_class=processing_class,
    )
    trainer.train()
    report = trainer.report(test_dataset=test)
    assert changed(before, state(model))
    assert report.models["original"]["test_accuracy"] == pytest.approx(known)
    assert report.models["unlearned"]["test_accuracy"] == pytest.approx(share(model, inputs, labels))
    assert all(math.isfinite(v) for figures in report.models.values() for v in figures.values())


CLASSIFIERS = {
    "CanineForSequenceClassification": {**ENCODER, "num_hash_functions": 2, "max_position_embeddings": 64, "local_transformer_stride": 16},
    "ImageGPTForImageClassification": {**GPT, "n_positions": 256},
    "PPLCNetForImageClassification": {"scale": 0.25},
    "PerceiverForSequenceClassification": {"vocab_size": 28, "num_latents": 2, "d_latents": 16, "d_model": 16, "num_blocks": 1},
    "ReformerForSequenceClassification": {**ENCODER, "attn_layers": ["local"], "attention_head_size": 8, "axial_pos_embds": False},
    "Siglip2ForImageClassification": {"vision_config": {**LAYERS, "patch_size": 8, "num_patches": 4}},
}  # fmt: skip


def test_every_class_that_cannot_run_is_tried():
    assert CLASSIFIERS.keys() == UNFIT.keys()


@pytest.mark.parametrize("name", UNFIT)
def test_a_class_that_cannot_run_is_refused_with_the_reason(tmp_path, name):
    kind = getattr(transformers, name)
    with torch.device("meta"):
        model = kind(kind.config_class(**CLASSIFIERS[name]))
    with pytest.raises(ValueError, match=f"`model` is a {name}, which {UNFIT[name]}"):
        check_architecture(model)
    data = text_data(8)
    with pytest.raises(ValueError, match=f"`model` is a {name}"):
        UnlearningTrainer(model, arguments(tmp_path), JiT(), data, processing_class=tokenizer())


def test_a_model_of_another_library_or_in_a_wrapper_is_refused():
    with pytest.raises(
        ValueError, match="`model` is a Sequential without a `config`, and a classifier of transformers"
    ):
        Processor(torch.nn.Sequential(torch.nn.Linear(4, 4)))
    with pytest.raises(ValueError, match=r"wrapped in `DataParallel`.*Pass `model\.module`"):
        Processor(torch.nn.DataParallel(build("bert")))
    check_architecture(build("bert"))
