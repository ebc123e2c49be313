"""A multilayer perceptron for images, as a model of transformers. It is fast, and the published runs of IT-reg use it.

Importing this module registers the architecture with the Auto classes as `pixel_mlp`.
"""

from itertools import pairwise
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn
from transformers import AutoConfig, AutoModelForImageClassification, PretrainedConfig, PreTrainedModel
from transformers.modeling_outputs import ImageClassifierOutput


class PixelMLPConfig(PretrainedConfig):
    """Sizes of a `PixelMLPForImageClassification`.

    Args:
        image_size: pixels of a side of the square images; default 28.
        num_channels: channels of the images, which are averaged into one; default 3.
        hidden_sizes: widths of the hidden layers; default (128, 64).
    """

    model_type = "pixel_mlp"

    def __init__(
        self, image_size: int = 28, num_channels: int = 3, hidden_sizes: tuple[int, ...] = (128, 64), **kwargs: Any
    ) -> None:
        self.image_size, self.num_channels, self.hidden_sizes = image_size, num_channels, list(hidden_sizes)
        super().__init__(**kwargs)


class PixelMLPForImageClassification(PreTrainedModel):
    """Linear layers with ReLU between them: pixels (B, channels, size, size) to logits (B, classes)."""

    config_class = PixelMLPConfig
    main_input_name = "pixel_values"

    def __init__(self, config: PixelMLPConfig) -> None:
        super().__init__(config)
        sizes = [config.image_size**2, *config.hidden_sizes]
        self.layers = nn.ModuleList(nn.Linear(a, b) for a, b in pairwise(sizes))
        self.classifier = nn.Linear(sizes[-1], config.num_labels)
        self.post_init()

    def _init_weights(self, module: nn.Module) -> None:
        if isinstance(module, nn.Linear):
            module.reset_parameters()  # torch's initialization, as in the published runs

    def forward(self, pixel_values: Tensor, labels: Tensor | None = None, **kwargs: Any) -> ImageClassifierOutput:
        x = pixel_values.mean(1).flatten(1)
        for layer in self.layers:
            x = F.relu(layer(x))
        logits = self.classifier(x)
        loss = None if labels is None else F.cross_entropy(logits, labels)
        return ImageClassifierOutput(loss=loss, logits=logits)


AutoConfig.register("pixel_mlp", PixelMLPConfig)
AutoModelForImageClassification.register(PixelMLPConfig, PixelMLPForImageClassification)
