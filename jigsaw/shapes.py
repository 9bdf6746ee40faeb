"""The shapes of a Qwen2.5-VL model, read of its config: what memory and arithmetic are worked out from."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from jigsaw.errors import JigsawError


@dataclass(frozen=True)
class Text:
    """The language model.

    Attributes:
        tied: whether the head's weight is the embeddings'.
    """

    hidden: int
    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    intermediate: int
    vocabulary: int
    tied: bool

    @property
    def layer_linear(self) -> int:
        """Weights of the linear layers of one block."""
        attention = self.hidden * self.head_dim * (2 * self.heads + 2 * self.kv_heads)
        return attention + 3 * self.hidden * self.intermediate

    @property
    def head(self) -> int:
        """Weights of the head."""
        return self.hidden * self.vocabulary

    @property
    def parameters(self) -> int:
        """All of them: embeddings, blocks with their biases (query, key, value) and norms, head if it is untied."""
        biases = self.head_dim * (self.heads + 2 * self.kv_heads)
        block = self.layer_linear + biases + 2 * self.hidden
        return self.head * (1 if self.tied else 2) + self.layers * block + self.hidden


@dataclass(frozen=True)
class Tower:
    """The vision tower, with its merger.

    Attributes:
        inputs: numbers a patch has: channels × frames × side².
        merge: side × side patches, merge², become one token.
        window: patches at the side of a window, at most.
        full: blocks that see a whole frame, not a window.
        out: width of a token, the language model's.
    """

    hidden: int
    depth: int
    heads: int
    intermediate: int
    inputs: int
    patch: int
    merge: int
    window: int
    full: int
    out: int

    @property
    def layer_linear(self) -> int:
        """Weights of the linear layers of one block."""
        return 4 * self.hidden**2 + 3 * self.hidden * self.intermediate

    @property
    def embed(self) -> int:
        """Weights of the layer that patches go through first."""
        return self.inputs * self.hidden

    @property
    def merger(self) -> int:
        """Weights of the two linear layers that make a token of merge² patches."""
        wide = self.hidden * self.merge**2
        return wide * wide + wide * self.out

    @property
    def parameters(self) -> int:
        """All of them, biases and norms too."""
        block = self.layer_linear + 7 * self.hidden + 2 * self.intermediate
        wide = self.hidden * self.merge**2
        return self.embed + self.depth * block + self.merger + wide + self.out + self.hidden


@dataclass(frozen=True)
class Shapes:
    """Both."""

    text: Text
    tower: Tower

    @property
    def parameters(self) -> int:
        """Weights of the whole model."""
        return self.text.parameters + self.tower.parameters

    @classmethod
    def of(cls, config: Mapping[str, Any]) -> "Shapes":
        """Shapes of a model.

        Args:
            config: what ``config.json`` holds, with the language model's part under ``text_config`` or beside
                ``vision_config``.

        Raises:
            JigsawError: if it is not a Qwen2.5-VL's.
        """
        if config.get("model_type") != "qwen2_5_vl":
            raise JigsawError(f"the model is a {config.get('model_type')}; known are the shapes of qwen2_5_vl alone")
        text, vision = {**config, **config.get("text_config", {})}, config["vision_config"]
        patch = vision["patch_size"]
        return cls(
            Text(
                hidden=text["hidden_size"],
                layers=text["num_hidden_layers"],
                heads=text["num_attention_heads"],
                kv_heads=text["num_key_value_heads"],
                head_dim=text["hidden_size"] // text["num_attention_heads"],
                intermediate=text["intermediate_size"],
                vocabulary=text["vocab_size"],
                tied=bool(config.get("tie_word_embeddings", False)),
            ),
            Tower(
                hidden=vision["hidden_size"],
                depth=vision["depth"],
                heads=vision["num_heads"],
                intermediate=vision["intermediate_size"],
                inputs=vision.get("in_channels", 3) * vision.get("temporal_patch_size", 2) * patch**2,
                patch=patch,
                merge=vision["spatial_merge_size"],
                window=vision["window_size"] // patch,
                full=len(vision["fullatt_block_indexes"]),
                out=vision["out_hidden_size"],
            ),
        )
