"""The files of a published folder: what each is called, and which may be published."""

import re

from ..evaluation.report.plots import FIGURES

CARD, REPORT, AUDIT, RECEIPT = "README.md", "report.json", "audit.json", "unlearning_receipt.json"
PAGE = "report.html"
ADAPTER_CONFIG, SHARDING = "adapter_config.json", "sharding.json"
TAG, OURS = "machine-unlearning", "hf_unlearn"  # tags of a card; the second marks the cards of this library

EVIDENCE = re.compile(rf"{RECEIPT}(\.sig)?|{REPORT}|{PAGE}|{CARD}|figures/({'|'.join(FIGURES)})\.png")
VOCABULARY = re.compile(
    r"(vocab|tokenizer|added_tokens|entity_vocab|word_shape|word_pronunciation)\.json|(vocab|merges|dict)\.txt|bpe\.codes"
    r"|(spiece|spm|tokenizer|sentencepiece|sentencepiece\.bpe)\.model"
)
MODEL = re.compile(
    r"sharding\.json|shard-\d{2}/adapter_(config\.json|model\.safetensors)"
    r"|(model|adapter_model|barycenter)(-\d{5}-of-\d{5})?\.safetensors|(model|adapter_model)\.safetensors\.index\.json"
    r"|(generation_|adapter_|preprocessor_|processor_|tokenizer_)?config\.json|(special_tokens_map|barycenter)\.json|"
    + VOCABULARY.pattern
)
# Weights in any format of any library: a push must recognize another model's weights to remove or to refuse them.
WEIGHTS = re.compile(
    r".*\.(safetensors|bin|pt|pt2|pth|ckpt|pkl|pickle|joblib|h5|hdf5|keras|msgpack|onnx|onnx_data|gguf|ggml|tflite|pb|npz|npy|ot"
    r"|mlmodel|nemo|mar|engine|params|index\.json|data-\d+-of-\d+)|.*\.ckpt[\w.-]*",
    re.IGNORECASE | re.DOTALL,
)
# Files that a repository may hold beside the pushed ones: the Hub's first commit, or the owner, adds them.
BOILERPLATE = re.compile(r"\.git(attributes|ignore)|(LICEN[SC]E|NOTICE)([-_]\w+)?(\.(md|txt))?", re.IGNORECASE)


def is_publishable(path: str) -> bool:
    """Whether a file with this path in the repository is on the list of what may be published."""
    return bool(MODEL.fullmatch(path) or EVIDENCE.fullmatch(path))
