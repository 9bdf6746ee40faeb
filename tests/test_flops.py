"""FLOP by arithmetic (jigsaw/flops.py) against those that torch counts while a small model runs."""

import copy
from collections.abc import Iterator, Sequence
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode
from transformers import (
    PreTrainedModel,
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
    Qwen3VLConfig,
    Qwen3VLForConditionalGeneration,
)

from jigsaw.flops import Flop, Group, apart, forward, group_flops, packed, padded, unpadded, update
from jigsaw.packing.layout import Layout
from jigsaw.packing.model import take_packs
from jigsaw.shapes import Shapes, Text, Tower

IMAGE, VOCABULARY = 90, 97
CHECKPOINTING = {"use_reentrant": False}
TEXT = {
    "vocab_size": VOCABULARY, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2,
    "num_attention_heads": 4, "num_key_value_heads": 2,
    "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [1, 1, 2]},
}  # fmt: skip
TOWER = {"depth": 3, "hidden_size": 32, "intermediate_size": 40, "num_heads": 2, "out_hidden_size": 32, "patch_size": 2}
IDS = {"image_token_id": IMAGE, "video_token_id": 91, "vision_start_token_id": 92, "vision_end_token_id": 93}
CONFIGS = {
    "qwen2_5_vl": Qwen2_5_VLConfig(
        text_config=TEXT,
        vision_config={**TOWER, "window_size": 8, "fullatt_block_indexes": [1], "tokens_per_second": 2},
        **IDS, bos_token_id=None, eos_token_id=None,
    ),
    "qwen3_vl": Qwen3VLConfig(
        text_config={**TEXT, "head_dim": 16},
        vision_config={**TOWER, "num_position_embeddings": 25, "deepstack_visual_indexes": [0]},
        **IDS,
    ),
}  # fmt: skip
SHAPES = {family: Shapes.of(config.to_dict()) for family, config in CONFIGS.items()}
both_families = pytest.mark.parametrize("family", CONFIGS)
SEVEN = Shapes(
    Text(3584, 28, 28, 4, 128, 18944, 152064, tied=False), Tower(1280, 32, 16, 3420, 1176, 14, 2, 8, 4, 3584)
)

aten = torch.ops.aten


@pytest.fixture(autouse=True, scope="module")
def _one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # on tiny products a second one only waits
    yield
    torch.set_num_threads(threads)


def attention(
    query: Sequence[int], key: Sequence[int], value: Any, dropout: float = 0.0, causal: bool = False, **inputs: Any
) -> int:
    """Two products over the pairs that the CPU's flash kernel is told of; torch counts none of them."""
    batch, heads, queries, size = query
    pairs = queries * (queries + 1) // 2 if causal else queries * key[2]
    return 4 * batch * heads * size * pairs


def attention_backward(
    grad: Any, query: Sequence[int], key: Sequence[int], value: Any, out: Any, lse: Any,
    dropout: float = 0.0, causal: bool = False, **inputs: Any,
) -> int:  # fmt: skip
    """Five products."""
    return attention(query, key, value, dropout, causal) * 5 // 2


def product(added: Any, a: Sequence[int], b: Sequence[int], **inputs: Any) -> int:
    return 2 * a[0] * a[1] * b[1]


class Counter(FlopCounterMode):
    """torch's, with the products that it does not know of: in place, and of the CPU's flash attention."""

    def __init__(self) -> None:
        formulas = {
            aten.addmm_: product,
            aten._scaled_dot_product_flash_attention_for_cpu: attention,
            aten._scaled_dot_product_flash_attention_for_cpu_backward: attention_backward,
        }
        super().__init__(display=False, custom_mapping=formulas)

    @property
    def total(self) -> int:
        """Without the angles of the rotation, which are a batched product."""
        return sum(count for op, count in self.get_flop_counts()["Global"].items() if op != aten.bmm)


def build(family: str = "qwen2_5_vl", attention: str = "sdpa") -> PreTrainedModel:
    torch.manual_seed(0)
    kind = Qwen3VLForConditionalGeneration if family == "qwen3_vl" else Qwen2_5_VLForConditionalGeneration
    model = kind(copy.deepcopy(CONFIGS[family]))  # it notes its attention there
    model.set_attn_implementation(attention)
    model.gradient_checkpointing_enable(CHECKPOINTING)
    return model.train()


def inputs_of(groups: Sequence[Group]) -> dict[str, Tensor]:
    grids = torch.tensor([grid for group in groups for grid in group.grids])
    return {"pixel_values": torch.randn(int(grids.prod(-1).sum()), 24), "image_grid_thw": grids}


def ids_of(group: Group) -> list[int]:
    pictures = sum(t * h * w // 4 for t, h, w in group.grids)
    return [IMAGE] * pictures + [1] * (group.prompt - pictures + sum(group.responses))


def plain(model: PreTrainedModel, rows: Sequence[Group]) -> Tensor:
    """Logits of a padded micro-batch, transformers' own."""
    ids = [ids_of(row) for row in rows]
    longest = max(map(len, ids))
    return model(
        input_ids=torch.tensor([row + [0] * (longest - len(row)) for row in ids]),
        attention_mask=torch.tensor([[1] * len(row) + [0] * (longest - len(row)) for row in ids]),
        position_ids=torch.arange(longest).expand(3, len(ids), -1),
        use_cache=False,
        **inputs_of(rows),
    ).logits


def ours(model: PreTrainedModel, groups: Sequence[Group]) -> Tensor:
    layout = Layout(tuple(g.prompt for g in groups), tuple(g.responses for g in groups), torch.device("cpu"))
    prompts = [torch.tensor(ids_of(Group(g.prompt, (), g.grids))) for g in groups]
    ids = layout.join(prompts, [[torch.ones(n, dtype=torch.int64) for n in g.responses] for g in groups])
    positions = torch.arange(layout.tokens).expand(3, 1, -1)
    return model(pack=layout, input_ids=ids[None], position_ids=positions, **inputs_of(groups))[0]


ODD = ((1, 6, 10), (2, 4, 6), (1, 10, 4))
ROWS = [Group(40, (n,), ODD) for n in (3, 0, 17)] + [Group(11, (9,), ((1, 4, 4),))]
GROUPS = [Group(40, (3, 0, 17, 1), ODD), Group(11, (9,), ((1, 4, 4),))]


@both_families
def test_a_padded_pass_is_what_torch_counts(family: str) -> None:
    work, shapes = padded([ROWS]), SHAPES[family]
    with Counter() as counter, torch.no_grad():
        plain(build(family), ROWS)
    assert forward(shapes, work).total == counter.total
    with Counter() as counter:
        plain(build(family), ROWS).sum().backward()
    assert update(shapes, work, head_again=False).total == counter.total


@both_families
def test_a_pack_is_what_torch_counts(family: str) -> None:
    work, shapes, model = packed(GROUPS), SHAPES[family], take_packs(build(family))
    model.lm_head.max_mib = 0  # one row a chunk
    with Counter() as counter, torch.no_grad():
        ours(model, GROUPS)
    assert forward(shapes, work).total == counter.total
    with Counter() as counter:
        ours(model, GROUPS).sum().backward()
    assert update(shapes, work, head_again=True).total == counter.total


@both_families
def test_an_attention_that_torch_counts_itself(family: str) -> None:
    """By the book its scores are kept for the backward pass, which then is two products for one, not 2.5."""
    rows = [Group(40, (n,)) for n in (3, 17)]
    pixels = [Group(4, (), ((1, 4, 4),))]  # a picture in a prompt of its own, or transformers would not call the tower
    with FlopCounterMode(display=False) as counter:
        plain(build(family, "eager"), rows + pixels).sum().backward()
    work, shapes = padded([rows + pixels]), SHAPES[family]
    tower = 4 * shapes.tower.hidden * 16**2 * shapes.tower.depth
    angles = 3 * shapes.text.head_dim * work.tokens
    counts = counter.get_flop_counts()["Global"]
    assert counts[aten.bmm] == 4 * (forward(shapes, work).attention + tower) + angles


def test_pairs_are_those_that_a_token_sees() -> None:
    layout = Layout(tuple(g.prompt for g in GROUPS), tuple(g.responses for g in GROUPS), torch.device("cpu"))
    assert packed(GROUPS).pairs == int(layout.mask().sum())
    alone = [Layout((row.prompt,), (row.responses,), torch.device("cpu")) for row in apart(GROUPS)]
    assert unpadded(GROUPS).pairs == sum(int(layout.mask().sum()) for layout in alone)


def test_what_goes_through_the_model() -> None:
    ways = packed(GROUPS), unpadded(GROUPS), padded([apart(GROUPS)[:4], apart(GROUPS)[4:]])
    assert [work.tokens for work in ways] == [81, 201, 4 * 57 + 20]
    assert [work.positions for work in ways] == [30, 201, 4 * 57 + 20]
    assert [work.tower_runs for work in ways] == [2, 5, 5]
    assert [len(work.grids) for work in ways] == [4, 13, 13]


# Worked out by hand on the same assumptions, PFLOP of tower, attention, linear layers and head; without padding, ours.
STEPS = {
    "image": (Group(670, (), ((1, 12, 16),) * 9), (1.37, 0.18, 8.78, 0.62), (0.07, 0.10, 3.03, 0.25)),
    "video": (Group(4500, (), ((6, 20, 24),) * 6), (13.75, 3.47, 38.91, 2.76), (0.68, 0.64, 4.51, 0.25)),
    "depth, without its picture": (Group(1780, ()), (0, 0.71, 17.51, 1.24), (0, 0.24, 3.46, 0.25)),
}


@pytest.mark.parametrize("task", STEPS)
def test_a_step_of_the_7b_model(task: str, replies: list[list[int]]) -> None:
    prompt, alone, together = STEPS[task]
    groups = [Group(prompt.prompt, tuple(lengths), prompt.grids) for lengths in replies]
    work = unpadded(groups)
    assert parts(forward(SEVEN, work) + update(SEVEN, work, head_again=False)) == pytest.approx(alone, abs=0.006)
    assert parts(update(SEVEN, packed(groups), head_again=True)) == pytest.approx(together, abs=0.006)


@pytest.fixture
def replies() -> list[list[int]]:
    """Those of benchmarks/step.py."""
    import numpy as np

    drawn = np.random.default_rng(0).lognormal(np.log(440) - 0.55**2 / 2, 0.55, 128).clip(60, 2048)
    return drawn.astype(int).reshape(8, 16).tolist()


def parts(flop: Flop) -> tuple[float, ...]:
    return tuple(part / 1e15 for part in (flop.tower, flop.attention, flop.linear, flop.head))


def test_ranks_are_given_work_by_what_groups_cost() -> None:
    one = group_flops(SEVEN, 4500, [400] * 16)
    assert one == update(SEVEN, packed([Group(4500, (400,) * 16)]), head_again=True).total
    # A long prompt costs once what a response costs each, a split group its prompt twice.
    assert group_flops(SEVEN, 4500, [400] * 8) > 0.6 * one
    assert group_flops(SEVEN, 670, [400] * 16) < 0.7 * one
