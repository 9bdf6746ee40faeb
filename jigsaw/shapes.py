"""The shapes of a Qwen2.5-VL or Qwen3-VL, read of its config: what memory and arithmetic are worked out from."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from jigsaw.errors import JigsawError

FAMILIES = ("qwen2_5_vl", "qwen3_vl")
"""Of models whose shapes are known, as a config's ``model_type`` names them."""


@dataclass(frozen=True)
class Text:
    """The language model.

    Attributes:
        tied: whether the head's weight is the embeddings'.
        biases: whether queries, keys and values have them.
        norms: whether queries and keys are normalised.
    """

    hidden: int
    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    intermediate: int
    vocabulary: int
    tied: bool
    biases: bool = True
    norms: bool = False

    @property
    def layer_linear(self) -> int:
        """Weights of the linear layers of one block."""
        attention = self.hidden * self.head_dim * (2 * self.heads + 2 * self.kv_heads)
        return attention + 3 * self.hidden * self.intermediate

    def adapter(self, rank: int) -> int:
        """Weights of an adapter of that rank (LoRA) on all linear layers but the head."""
        heads, keys = self.head_dim * self.heads, self.head_dim * self.kv_heads
        attention = 2 * (self.hidden + heads) + 2 * (self.hidden + keys)
        return self.layers * rank * (attention + 3 * (self.hidden + self.intermediate))

    @property
    def head(self) -> int:
        """Weights of the head."""
        return self.hidden * self.vocabulary

    @property
    def parameters(self) -> int:
        """All of them: embeddings, blocks with their biases and norms, head if it is untied."""
        biases = self.head_dim * (self.heads + 2 * self.kv_heads) if self.biases else 0
        block = self.layer_linear + biases + 2 * self.hidden + (2 * self.head_dim if self.norms else 0)
        return self.head * (1 if self.tied else 2) + self.layers * block + self.hidden


@dataclass(frozen=True)
class Tower:
    """The vision tower, with what makes tokens of its patches.

    Attributes:
        inputs: numbers a patch has: channels × frames × side².
        merge: side × side patches, merge², become one token.
        window: patches at the side of a window, at most; 0 where all blocks see a whole frame.
        full: blocks that see a whole frame, not a window.
        out: width of a token, the language model's.
        gated: whether an MLP has a gate, which is Qwen2.5-VL's; Qwen3-VL's norms and layers have more biases.
        deep: blocks whose output the first layers of the language model are given, each by a merger of its own.
        places: learned places on a picture.
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
    gated: bool = True
    deep: int = 0
    places: int = 0

    @property
    def layer_linear(self) -> int:
        """Weights of the linear layers of one block."""
        return 4 * self.hidden**2 + (3 if self.gated else 2) * self.hidden * self.intermediate

    def adapter(self, rank: int) -> int:
        """Weights of an adapter of that rank (LoRA) on its linear layers, those that make tokens too."""
        block = 6 * self.hidden + (3 if self.gated else 2) * (self.hidden + self.intermediate)
        wide = self.hidden * self.merge**2
        return rank * (self.depth * block + (1 + self.deep) * (3 * wide + self.out))

    @property
    def embed(self) -> int:
        """Weights of the layer that patches go through first."""
        return self.inputs * self.hidden

    @property
    def merger(self) -> int:
        """Weights of the two linear layers that make a token of merge² patches; of all mergers."""
        wide = self.hidden * self.merge**2
        return (1 + self.deep) * (wide * wide + wide * self.out)

    @property
    def parameters(self) -> int:
        """All of them, biases and norms too."""
        wide = self.hidden * self.merge**2
        norm = self.hidden if self.gated else 2 * self.hidden
        block = self.layer_linear + 5 * self.hidden + (2 if self.gated else 1) * self.intermediate + 2 * norm
        mergers = self.merger + (1 + self.deep) * (wide + self.out) + norm + self.deep * 2 * wide
        embed = self.embed + (0 if self.gated else self.hidden) + self.places * self.hidden
        return embed + self.depth * block + mergers


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
            JigsawError: if it is of no family that is known.
        """
        family = config.get("model_type")
        if family not in FAMILIES:
            raise JigsawError(f"the model is a {family}; known are the shapes of {' and '.join(FAMILIES)}")
        text, vision = {**config, **config.get("text_config", {})}, config["vision_config"]
        newer, patch = family == "qwen3_vl", vision["patch_size"]
        return cls(
            Text(
                hidden=text["hidden_size"],
                layers=text["num_hidden_layers"],
                heads=text["num_attention_heads"],
                kv_heads=text["num_key_value_heads"],
                head_dim=text["head_dim"] if newer else text["hidden_size"] // text["num_attention_heads"],
                intermediate=text["intermediate_size"],
                vocabulary=text["vocab_size"],
                tied=bool(config.get("tie_word_embeddings", False)),
                biases=not newer,
                norms=newer,
            ),
            Tower(
                hidden=vision["hidden_size"],
                depth=vision["depth"],
                heads=vision["num_heads"],
                intermediate=vision["intermediate_size"],
                inputs=vision.get("in_channels", 3) * vision.get("temporal_patch_size", 2) * patch**2,
                patch=patch,
                merge=vision["spatial_merge_size"],
                window=0 if newer else vision["window_size"] // patch,
                full=vision["depth"] if newer else len(vision["fullatt_block_indexes"]),
                out=vision["out_hidden_size"],
                gated=not newer,
                deep=len(vision["deepstack_visual_indexes"]) if newer else 0,
                places=vision["num_position_embeddings"] if newer else 0,
            ),
        )
