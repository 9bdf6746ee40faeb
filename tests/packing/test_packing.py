"""A pack gives the loss and the gradients of transformers' own model, one sequence at a time.

The model is imported where it is built: it takes seconds, and all processes of the tests read this file.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from jigsaw.packing.attention import attend
from jigsaw.packing.head import log_probs
from jigsaw.packing.layout import Layout

if TYPE_CHECKING:
    from transformers import PreTrainedModel

IMAGE, VIDEO, START, END, VOCABULARY = 90, 91, 92, 93, 97


@pytest.fixture(autouse=True, scope="module")
def _one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # on tiny products a second one only waits
    yield
    torch.set_num_threads(threads)


FAMILIES = ("qwen2_5_vl", "qwen3_vl")
TEXT = {
    "vocab_size": VOCABULARY, "hidden_size": 32, "intermediate_size": 48, "num_attention_heads": 4,
    "num_key_value_heads": 2, "max_position_embeddings": 512, "initializer_range": 0.2,
    "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [1, 1, 2]},
}  # fmt: skip
TOWER = {
    "hidden_size": 32, "intermediate_size": 48, "num_heads": 2, "out_hidden_size": 32, "patch_size": 2,
    "initializer_range": 0.2,
}  # fmt: skip
IDS = {"image_token_id": IMAGE, "video_token_id": VIDEO, "vision_start_token_id": START, "vision_end_token_id": END}


def build(tied: bool, family: str = "qwen2_5_vl") -> "PreTrainedModel":
    import transformers

    torch.manual_seed(0)
    both = {**IDS, "tie_word_embeddings": tied, "initializer_range": 0.2}
    if family == "qwen2_5_vl":
        text = {**TEXT, "num_hidden_layers": 2, "tie_word_embeddings": tied}
        tower = {**TOWER, "depth": 3, "window_size": 8, "fullatt_block_indexes": [1], "tokens_per_second": 2}
        config = transformers.Qwen2_5_VLConfig(text_config=text, vision_config=tower, **both)
        return transformers.Qwen2_5_VLForConditionalGeneration(config).train()
    text = {**TEXT, "num_hidden_layers": 3, "head_dim": 16, "tie_word_embeddings": tied}
    tower = {**TOWER, "depth": 3, "num_position_embeddings": 25, "deepstack_visual_indexes": [0, 2]}
    config = transformers.Qwen3VLConfig(text_config=text, vision_config=tower, **both)
    return transformers.Qwen3VLForConditionalGeneration(config).train()


@dataclass
class Group:
    """A prompt with its pictures, and its responses."""

    prompt: Tensor
    responses: list[Tensor]
    images: list[tuple[int, int, int]]
    videos: list[tuple[int, int, int]]
    pixels: dict[str, Tensor]

    def media(self) -> dict[str, Tensor]:
        inputs = {}
        if self.images:
            inputs |= {"pixel_values": self.pixels["image"], "image_grid_thw": torch.tensor(self.images)}
        if self.videos:
            inputs |= {"pixel_values_videos": self.pixels["video"], "video_grid_thw": torch.tensor(self.videos)}
        return inputs


def draw(
    images: list[tuple[int, int, int]],
    videos: list[tuple[int, int, int]],
    lengths: list[int],
    seed: int,
    family: str = "qwen2_5_vl",
) -> Group:
    """Text and the pictures between it; grids in patches, two of them a side of a token."""
    rng = torch.Generator().manual_seed(seed)

    def text(n: int) -> list[int]:
        return torch.randint(0, IMAGE, (n,), generator=rng).tolist()

    prompt = text(3)
    for token, grids in ((IMAGE, images), (VIDEO, videos)):
        for t, h, w in grids:
            shown = [1] * t if family == "qwen3_vl" else [t]  # Qwen3-VL has the time of a frame, as text, before each
            for frames in shown:
                prompt += [START, *[token] * (frames * h * w // 4), END, *text(2)]
    patches = {name: sum(t * h * w for t, h, w in grids) for name, grids in (("image", images), ("video", videos))}
    return Group(
        torch.tensor(prompt), [torch.tensor(text(n), dtype=torch.int64) for n in lengths], images, videos,
        {name: torch.randn(n, 3 * 2 * 2 * 2, generator=rng) for name, n in patches.items()},
    )  # fmt: skip


def positions(model: "PreTrainedModel", group: Group, ids: Tensor) -> Tensor:
    """transformers' own, ``(3, tokens)``, of a whole sequence."""
    kinds = (ids == IMAGE).int() + 2 * (ids == VIDEO).int()
    grids = {name: value for name, value in group.media().items() if name.endswith("thw")}
    return model.model.get_rope_index(ids[None], kinds[None], **grids)[0][:, 0]


def weights(n: int) -> Tensor:
    """A factor for each log-probability, other than all others', as advantages are."""
    return torch.randn(n, generator=torch.Generator().manual_seed(n))


def plain(model: "PreTrainedModel", groups: list[Group]) -> tuple[Tensor, Tensor]:
    """Log-probabilities and entropies of the response tokens, from one sequence after another."""
    chosen, entropies = [], []
    for group in groups:
        for response in group.responses:
            ids = torch.cat([group.prompt, response])
            at = positions(model, group, ids)[:, None]
            logits = model(input_ids=ids[None], position_ids=at, use_cache=False, **group.media()).logits[0]
            logp = logits[len(group.prompt) - 1 : -1].log_softmax(-1)
            chosen.append(logp.gather(1, response[:, None])[:, 0])
            entropies.append(-(logp.exp() * logp).sum(-1))
    return torch.cat(chosen), torch.cat(entropies)


def packed(model: "PreTrainedModel", groups: list[Group]) -> tuple[Tensor, Tensor]:
    layout = lay(groups)
    media: dict[str, list[Tensor]] = {}
    for group in groups:
        for name, value in group.media().items():
            media.setdefault(name, []).append(value)
    return model(
        input_ids=layout.join([g.prompt for g in groups], [g.responses for g in groups])[None],
        position_ids=layout.positions([positions(model, g, g.prompt) for g in groups])[:, None],
        pack=layout,
        **{name: torch.cat(values) for name, values in media.items()},
    )


def lay(groups: list[Group]) -> Layout:
    lengths = tuple(tuple(len(response) for response in group.responses) for group in groups)
    return Layout(tuple(len(group.prompt) for group in groups), lengths, torch.device("cpu"))


def loss(chosen: Tensor, entropies: Tensor) -> Tensor:
    w = weights(2 * len(chosen))
    return (w[: len(chosen)] * chosen).sum() + 0.3 * (w[len(chosen) :] * entropies).sum()


def assert_close(found: Tensor, wanted: Tensor, name: str, tolerance: float = 1e-5) -> None:
    error = (found - wanted).norm() / wanted.norm().clamp(min=1e-12)
    assert error < tolerance, f"{name}: {error:.1e}"


def take_packs(model: "PreTrainedModel") -> "PreTrainedModel":
    from jigsaw.packing.model import take_packs

    return take_packs(model)


def assert_equal(groups: list[Group], tied: bool, checkpointing: bool = False, family: str = "qwen2_5_vl") -> None:
    model = build(tied, family)
    expected = plain(model, groups)
    loss(*expected).backward()
    wanted = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    model.zero_grad()
    model = take_packs(model)
    model.lm_head.max_mib = 0  # one row a chunk
    if checkpointing:
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    found = packed(model, groups)
    loss(*found).backward()
    assert_close(found[0], expected[0], "log-probabilities")
    assert_close(found[1], expected[1], "entropies")
    grads = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    assert grads.keys() >= wanted.keys()
    for name in grads.keys() - wanted.keys():  # of the tower, which is called for text alone too
        assert ".visual." in name
        assert not grads[name].any()
    # A key's bias moves all scores of a query alike, so that its gradient is what rounding leaves of 0.
    scale = max(grad.norm() for grad in wanted.values())
    for name, grad in wanted.items():
        if grad.norm() > 1e-5 * scale:
            assert_close(grads[name], grad, name)
        else:
            assert grads[name].norm() < 2e-5 * scale, name


IMAGES = [(1, 6, 4), (1, 4, 4), (1, 8, 10)]
VIDEOS = [(3, 4, 6), (2, 6, 4)]


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("tied", [True, False], ids=["tied", "untied"])
@pytest.mark.parametrize(
    "groups",
    [
        pytest.param([(IMAGES, [], [5] * 4)], id="image"),
        pytest.param([([], VIDEOS, [3, 0, 1, 40])], id="video"),
        pytest.param([([], [], [7])], id="text"),
        pytest.param([(IMAGES[:1], VIDEOS[:1], [1, 2, 0, 9] * 4)], id="both"),
        pytest.param([([], VIDEOS[:1], [3, 2]), (IMAGES[:2], [], [5])], id="videos first"),
        pytest.param([(IMAGES, [], [4, 0]), ([], [], [1, 30, 2]), ([], VIDEOS, [6]), ([], [], [0, 0])], id="mixture"),
    ],
)
def test_a_pack_trains_as_its_sequences_do(groups: list, tied: bool, family: str) -> None:
    drawn = [draw(*group, seed=i, family=family) for i, group in enumerate(groups)]
    assert_equal(drawn, tied, checkpointing=tied, family=family)


@pytest.mark.seconds
@settings(max_examples=8, deadline=None)
@given(
    groups=st.lists(
        st.tuples(
            st.lists(st.tuples(st.just(1), *[st.sampled_from([2, 4, 10])] * 2), max_size=2),
            st.lists(st.tuples(st.integers(1, 3), *[st.sampled_from([2, 4, 6])] * 2), max_size=1),
            st.lists(st.integers(0, 12), min_size=1, max_size=5),
        ),
        min_size=1,
        max_size=3,
    ).filter(lambda groups: any(sum(lengths) for *_, lengths in groups)),
    tied=st.booleans(),
    checkpointing=st.booleans(),
    family=st.sampled_from(FAMILIES),
)
def test_any_pack_trains_as_its_sequences_do(groups: list, tied: bool, checkpointing: bool, family: str) -> None:
    drawn = [draw(*group, seed=i, family=family) for i, group in enumerate(groups)]
    assert_equal(drawn, tied, checkpointing, family)


@pytest.mark.parametrize("family", FAMILIES)
def test_text_alone_reaches_every_weight(family: str) -> None:
    """With sharded weights, ranks reduce the same gradients whatever their packs show."""
    model = take_packs(build(False, family))
    loss(*packed(model, [draw([], [], [4], seed=0, family=family)])).backward()
    assert [name for name, weight in model.named_parameters() if weight.grad is None] == []


def test_a_model_of_another_family_is_refused() -> None:
    with pytest.raises(ValueError, match="Linear takes no packs: Qwen2"):
        take_packs(torch.nn.Linear(1, 1))


def test_a_pack_without_any_response_token_has_nothing_to_train() -> None:
    chosen, entropies = packed(take_packs(build(tied=False)), [draw([], [], [0, 0], seed=0)])
    assert chosen.shape == entropies.shape == (0,)


def test_positions_of_a_response_go_on_from_its_prompt() -> None:
    model, groups = build(tied=True), [draw(IMAGES, VIDEOS, [3, 5], seed=0), draw([], VIDEOS, [4], seed=1)]
    found = lay(groups).positions([positions(model, group, group.prompt) for group in groups])
    wanted = lay(groups).join(
        [positions(model, g, g.prompt) for g in groups],
        [[positions(model, g, torch.cat([g.prompt, r]))[:, len(g.prompt) :] for r in g.responses] for g in groups],
    )
    assert torch.equal(found, wanted)


def test_every_response_token_is_predicted_by_the_one_before_it() -> None:
    layout = Layout((3, 2), ((2, 0, 1), (3,)), torch.device("cpu"))
    #          prompts  0 1 2 | 3 4   responses  5 6 | 7 | 8 9 10
    assert layout.predicting.tolist() == [2, 5, 2, 4, 8, 9]
    values = layout.split(torch.arange(6))
    assert [[part.tolist() for part in group] for group in values] == [[[0, 1], [], [2]], [[3, 4, 5]]]


@pytest.mark.parametrize(
    ("prompts", "responses", "message"),
    [((3, 0), ((1,), (1,)), "at least one token"), ((), (), "at least one token"), ((3,), ((1,), (1,)), "1 prompts")],
)
def test_a_pack_that_cannot_be_is_refused(prompts: tuple, responses: tuple, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Layout(prompts, responses, torch.device("cpu"))


@settings(max_examples=20, deadline=None)
@given(
    prompts=st.lists(st.integers(1, 9), min_size=1, max_size=3),
    data=st.data(),
)
def test_attention_by_pieces_is_attention_by_a_mask(prompts: list[int], data: st.DataObject) -> None:
    responses = tuple(tuple(data.draw(st.lists(st.integers(0, 9), min_size=1, max_size=4))) for _ in prompts)
    layout = Layout(tuple(prompts), responses, torch.device("cpu"))
    rng = torch.Generator().manual_seed(0)
    q, k, v, grad = (torch.randn(layout.tokens, heads, 8, generator=rng) for heads in (4, 2, 2, 4))
    leaves = [t.clone().requires_grad_() for t in (q, k, v)]
    found = attend(*leaves, layout.pieces, 0.3)
    found.backward(grad)
    references = [t.clone().requires_grad_() for t in (q, k, v)]
    heads = [t.repeat_interleave(4 // t.shape[1], 1).transpose(0, 1) for t in references]
    scores = (heads[0] @ heads[1].mT * 0.3).masked_fill(~layout.mask(), -torch.inf)
    wanted = (scores.softmax(-1) @ heads[2]).transpose(0, 1)
    wanted.backward(grad)
    assert_close(found, wanted, "output")
    for name, leaf, reference in zip("qkv", leaves, references, strict=True):
        # One key gets all of the attention whatever its score, so that q and k may have no gradient.
        torch.testing.assert_close(leaf.grad, reference.grad, rtol=1e-5, atol=1e-5, msg=name)


@pytest.mark.parametrize("max_mib", [0, 1])
def test_the_head_never_holds_more_logits_than_it_may(max_mib: int, monkeypatch: pytest.MonkeyPatch) -> None:
    rng = torch.Generator().manual_seed(0)
    hidden, weight = torch.randn(64, 8, generator=rng), torch.randn(5000, 8, generator=rng)
    targets, w = torch.randint(0, 5000, (64,), generator=rng), torch.randn(64, generator=rng)
    made = []
    matmul = Tensor.__matmul__
    monkeypatch.setattr(Tensor, "__matmul__", lambda a, b: made.append(matmul(a, b)) or made[-1])
    grads = []
    for head in (lambda h, m: log_probs(h, m, targets, max_mib)[0], lambda h, m: _plain_head(h, m, targets)):
        leaves = [t.clone().requires_grad_() for t in (hidden, weight)]
        (head(*leaves) * w).sum().backward()
        grads.append([leaf.grad for leaf in leaves])
        if head.__code__.co_freevars != ("targets",):
            rows = max(1, max_mib * 2**20 // (5000 * 8))
            assert max(len(logits) for logits in made if logits.shape[1] == 5000) == rows
    for found, wanted in zip(*grads, strict=True):
        assert_close(found, wanted, "gradient")


def _plain_head(hidden: Tensor, weight: Tensor, targets: Tensor) -> Tensor:
    return (hidden @ weight.T).log_softmax(-1).gather(1, targets[:, None])[:, 0]


def test_the_plain_model_stays_selectable() -> None:
    groups = [draw(IMAGES, [], [4, 2], seed=0)]
    wanted = plain(build(tied=False), groups)
    model = take_packs(build(tied=False))
    with pytest.raises(ValueError, match="give the model a pack, or use 'sdpa'"):
        plain(model, groups)
    from jigsaw.packing.model import use_packed_attention

    use_packed_attention(model, packed=False)
    assert torch.equal(plain(model, groups)[0], wanted[0])


def test_a_temperature_divides_the_logits() -> None:
    rng = torch.Generator().manual_seed(0)
    hidden, weight = torch.randn(6, 8, generator=rng), torch.randn(11, 8, generator=rng)
    targets = torch.randint(11, (6,), generator=rng)

    def grads(found: tuple[Tensor, Tensor], given: tuple[Tensor, Tensor]) -> tuple[Tensor, ...]:
        return torch.autograd.grad(loss(*found), given)

    def plain_head(h: Tensor, w: Tensor) -> tuple[Tensor, Tensor]:
        logp = (h @ w.T / 0.7).log_softmax(-1)
        return logp.gather(1, targets[:, None])[:, 0], -(logp.exp() * logp).sum(-1)

    given = hidden.requires_grad_(), weight.requires_grad_()
    found, wanted = log_probs(*given, targets, 0, 0.7), plain_head(*given)
    for one, two in zip((*found, *grads(found, given)), (*wanted, *grads(wanted, given)), strict=True):
        assert_close(one.detach(), two.detach(), "with a temperature")
