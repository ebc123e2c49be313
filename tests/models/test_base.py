"""The base of an original: how it is found, what fits, and what is loaded."""

import json

import pytest
import torch
import transformers
from peft import LoraConfig, get_peft_model

from hf_unlearn.models.base import Base, check_tokenizer, find_base, given_base, lies_on
from tests.support.data import processing_class
from tests.support.models import build, changed, state, trained

OTHERS = {"bert": "BertModel", "vit": "ViTModel", "dinov2": "Dinov2Model", "roberta": "RobertaModel", "resnet": "ResNetModel",
          "distilbert": "DistilBertModel", "swin": "SwinModel", "convnext": "ConvNextModel", "deit": "DeiTModel"}  # fmt: skip


def save_encoder(arch, folder, **changes):
    """Save the encoder of another untrained model of `arch` without a head, as it is published, and return it."""
    config = build(arch).config
    for name, value in changes.items():
        setattr(config, name, value)
    torch.manual_seed(7)
    encoder = getattr(transformers, OTHERS[arch])(config)
    encoder.save_pretrained(folder)
    return encoder


def head_of(model):
    return {n for n in state(model) if n.startswith(("classifier", "head", "pre_classifier", "bert.pooler"))}


@pytest.mark.parametrize("arch", OTHERS)
def test_all_but_the_head_comes_from_the_base_and_the_head_from_the_seed(tmp_path, arch):
    encoder, original = save_encoder(arch, tmp_path / "base"), build(arch)
    before = state(original)
    base = given_base(str(tmp_path / "base"))
    loaded, again, other = (base.load(original, seed) for seed in (3, 3, 4))
    assert not changed(before, state(original))
    assert not changed(state(loaded), state(again))
    assert changed(state(loaded), state(other)) <= head_of(loaded)
    assert changed(state(loaded), state(other))
    prefix = loaded.base_model_prefix
    theirs = {f"{prefix}.{n}": t for n, t in encoder.state_dict().items()}
    shared = {n: t for n, t in state(loaded).items() if n in theirs}
    assert set(state(loaded)) - head_of(loaded) <= set(shared)
    assert all(torch.equal(t, theirs[n]) for n, t in shared.items())
    assert type(loaded) is type(original)
    assert loaded.config.num_labels == original.config.num_labels


def test_the_base_below_an_adapter(tmp_path):
    peft = pytest.importorskip("peft")
    save_encoder("vit", tmp_path / "base")
    whole = Base(str(tmp_path / "base")).load(trained("vit"))
    whole.save_pretrained(tmp_path / "start")
    adapted = peft.get_peft_model(
        transformers.AutoModelForImageClassification.from_pretrained(tmp_path / "start"),
        peft.LoraConfig(target_modules="all-linear", modules_to_save=["classifier"]),
    )
    adapted.peft_config["default"].base_model_name_or_path = str(tmp_path / "base")
    adapted.save_pretrained(tmp_path / "adapter")
    base = find_base(str(tmp_path / "adapter"))
    assert base == Base(str(tmp_path / "base"), None, "the adapter's configuration")
    assert changed(state(whole), state(base.load(adapted))) <= head_of(whole)


def test_an_adapter_lies_on_the_base_that_it_names(tmp_path):
    for name in ("base", "other"):
        trained("vit").vit.save_pretrained(tmp_path / name)
    classifier = type(trained("vit")).from_pretrained(tmp_path / "base", num_labels=4)
    model = get_peft_model(classifier, LoraConfig(r=2, target_modules=["q_proj"]))
    base, other = (given_base(str(tmp_path / name)) for name in ("base", "other"))
    assert lies_on(model, base)
    assert not lies_on(model, other)
    assert not lies_on(model, "none")
    assert not lies_on(classifier, base)
    torch.manual_seed(3)
    before = torch.get_rng_state()
    assert lies_on(model, base)
    assert torch.equal(torch.get_rng_state(), before)
    trained("vit").save_pretrained(tmp_path / "base")  # now a classifier of the same classes
    assert not lies_on(model, base)
    trained("vit").vit.save_pretrained(tmp_path / "base")
    model.add_adapter("second", LoraConfig(r=2, target_modules=["q_proj"]))
    assert lies_on(model, base)


def test_it_is_found_in_the_card_before_the_configuration(tmp_path):
    folder = tmp_path / "original"
    trained("vit").save_pretrained(folder)
    assert find_base(str(folder)) is None
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"_name_or_path": str(folder)}))
    assert find_base(str(folder)) is None  # it names itself
    (folder / "config.json").write_text(json.dumps(config | {"_name_or_path": str(tmp_path / "former")}))
    assert find_base(str(folder)) == Base(str(tmp_path / "former"), None, "config.json")
    for value in ("[a, b]", "3", "", "{a: 1}", "org/name@"):
        (folder / "README.md").write_text(f"---\nbase_model: {value}\n---\n")
        assert find_base(str(folder)).named_by == "config.json"
    (folder / "README.md").write_text(f"---\nbase_model:\n- {tmp_path / 'card'}\n---\n")
    assert find_base(str(folder)) == Base(str(tmp_path / "card"), None, "the model's card")


def test_a_base_on_the_hub_is_pinned_to_its_commit(tmp_path, hub):
    from huggingface_hub import HfApi

    save_encoder("vit", tmp_path / "base")
    HfApi().create_repo("alice/encoder")
    HfApi().upload_folder(repo_id="alice/encoder", folder_path=tmp_path / "base")
    commit = HfApi().repo_info("alice/encoder").sha
    assert given_base("alice/encoder@main") == Base("alice/encoder", commit)
    trained("vit").save_pretrained(tmp_path / "original")
    (tmp_path / "original" / "README.md").write_text("---\nbase_model: alice/encoder\n---\n")
    base = find_base(str(tmp_path / "original"))
    assert base.describe() == {"id": "alice/encoder", "revision": commit, "named_by": "the model's card"}
    assert Base(str(tmp_path / "base")).describe()["id"] is None  # a folder's name stays here
    assert not changed(state(base.load(trained("vit"))), state(Base(str(tmp_path / "base")).load(trained("vit"))))


def test_a_base_that_does_not_fit_is_refused(tmp_path):
    original = trained("bert")
    refused = {
        "is a vit, and the original a bert": lambda f: save_encoder("vit", f),
        r"word_embeddings.weight is \(99, 16\) there and": lambda f: save_encoder("bert", f, vocab_size=99),
        "lacks 16 weights of the original, such as bert.encoder.layer.1": lambda f: save_encoder(
            "bert", f, num_hidden_layers=1
        ),
        "is a trained classifier of the same classes": lambda f: original.save_pretrained(f),
        "seen the rows to forget. Name the model that the training started from, or `none`": lambda f: build(
            "bert"
        ).save_pretrained(f),
    }
    for number, (reason, save) in enumerate(refused.items()):
        save(tmp_path / str(number))
        with pytest.raises(ValueError, match=reason):
            Base(str(tmp_path / str(number))).load(original)


def test_a_classifier_of_other_classes_gives_its_body(tmp_path):
    other = build("vit")
    other.config.id2label = dict(enumerate("abcd"))
    other.save_pretrained(tmp_path / "base")
    loaded = Base(str(tmp_path / "base")).load(trained("vit"))
    assert changed(state(other), state(loaded)) == {"classifier.weight"}  # biases start at zero in both


def test_a_base_with_another_tokenizer_is_refused(tmp_path):
    ours = processing_class("bert")
    save_encoder("bert", tmp_path / "base")
    base = Base(str(tmp_path / "base"))
    check_tokenizer(base, ours)  # the base has none
    ours.save_pretrained(tmp_path / "base")
    check_tokenizer(base, ours)
    file = tmp_path / "base" / "tokenizer.json"
    content = json.loads(file.read_text())
    vocabulary = content["model"]["vocab"]
    last, before = sorted(vocabulary, key=vocabulary.get)[-2:]
    vocabulary[last], vocabulary[before] = vocabulary[before], vocabulary[last]
    file.write_text(json.dumps(content))
    with pytest.raises(ValueError, match="another tokenizer than the original: 2 of its entries have other numbers"):
        check_tokenizer(base, ours)
