"""A finished run of the command line, and an adapter, for all tests of cards."""

from types import SimpleNamespace

import pytest
import transformers
from peft import LoraConfig, get_peft_model

from hf_unlearn import GradientAscent
from hf_unlearn.cli import main
from hf_unlearn.models.pretrained import save_model
from tests.support.data import image_data, image_processor, text_data, tokenizer
from tests.support.models import trained
from tests.support.runs import trainer_for


def write_images(folder):
    for split, seed in (("train", 0), ("test", 9)):
        data = image_data(96, seed)
        folder.mkdir(parents=True, exist_ok=True)
        data.to_parquet(folder / f"{split}.parquet")


@pytest.fixture(scope="session")
def run(tmp_path_factory):
    """A run of the command line, from an original with a card of its own."""
    root = tmp_path_factory.mktemp("card")
    save_model(trained("vit"), image_processor(), root / "original")
    (root / "original" / "README.md").write_text("---\nlicense: cc-by-4.0\nlanguage:\n- en\n---\n# An original\n")
    write_images(root / "data")
    (root / "recipe.yaml").write_text("forget_class: [1]\nmethod: jit\nsigma: 0.9\nmax_steps: 40\nseed: 5\n")
    words = ["--config", root / "recipe.yaml", "--model", root / "original", "--dataset", root / "data"]
    words += ["--output_dir", root / "out", "--use_cpu", "true", "--disable_tqdm", "true", "--retrain", "true"]
    words += ["--train_epochs", "100", "--hub_token", "hf_" + "A" * 34]
    code = main(["run", *map(str, words)])
    folder = root / "out"
    return SimpleNamespace(code=code, root=root, folder=folder, text=(folder / "README.md").read_text(), words=words)


@pytest.fixture(scope="session")
def adapter(tmp_path_factory):
    """A LoRA adapter on a classifier of texts, saved beside its base."""
    root = tmp_path_factory.mktemp("adapter")
    save_model(trained("bert"), tokenizer(), root / "base")
    base = transformers.AutoModelForSequenceClassification.from_pretrained(root / "base")
    model = get_peft_model(base, LoraConfig(r=4, target_modules=["query", "value"], init_lora_weights="gaussian"))
    settings = {"update": "lora_", "trust_region": 0.1, "max_steps": 10, "forget_target": 0.0}
    trainer = trainer_for("bert", root / "run", GradientAscent(), model=model, **settings)
    trainer.train()
    trainer.model.save_pretrained(root / "model")
    return SimpleNamespace(root=root, trainer=trainer, report=trainer.report(test_dataset=text_data(36, 7)))
