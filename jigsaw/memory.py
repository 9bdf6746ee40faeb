"""What a training step takes of memory, worked out from a model's shapes and a run's settings.

Pure arithmetic: no torch, no data, no weights. It follows verl 0.9.1's FSDP2 engine, sleep and weight sync, vLLM 0.24.0
and :mod:`jigsaw.packing`. The tests hold the activations against H100 figures (benchmarks/gpu_h100.json), against runs
on fake tensors at the true shapes and against tensors counted on the CPU. Sizes that nobody has measured are constants
here, and what is made of them is called assumed.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

from jigsaw.shapes import Shapes

GIB = 2**30
SPARE = 0.1
"""Share of a card that a plan leaves free: for the allocator's gaps, and for what is assumed."""
SHOWN = 79 / 80
"""Of the memory by which a card is called, what CUDA shows of it, in GiB (an H100 of 80 GB: 79.2)."""
HEAD_MIB = 512
"""MiB of the head's logits at a time: ``jigsaw.packing.head.LogProbHead.max_mib``, without torch."""
BYTES_PER_LOGIT = 8
"""Of those (``jigsaw.packing.head.BYTES_PER_LOGIT``)."""
PLAIN_LOGITS = {"log-probs": 14.0, "update": 26.0, "update without entropy": 8.1}
"""Bytes that verl's own engine holds of each logit, of prompts too, where bfloat16 and float32 copies meet."""
STEP = 1024
"""Tokens by which a budget is rounded down."""

_CONTEXTS = 2 * GIB
"""CUDA contexts, cuBLAS and NCCL of the trainer's and vLLM's process on a GPU; assumed."""
_ASLEEP = GIB
"""vLLM's CUDA graphs and small buffers, which its sleep does not free; assumed."""
_WORKSPACE = 3 * GIB
"""What vLLM sets aside of its share for activations and CUDA graphs; assumed."""
_QUEUES = (160 << 20, 240 << 20)
"""vLLM's message queues in /dev/shm: of a server, and of each of its GPUs."""
_MEDIA_CACHE = 4 * GIB
"""A server's cache of processed media, at the most (vLLM's ``mm_processor_cache_gb``)."""
_PROCESSES, _PROCESSES_A_GPU = 5 * 10**9, 35 * 10**8
"""Bytes of all processes of a run without its data: 8.5 GB with one rank, 12 GB with two, measured on the CPU."""


@dataclass(frozen=True)
class Part:
    """A thing that lies in memory.

    Attributes:
        what: its name.
        size: bytes.
        how: how they were worked out, with the numbers.
        limit: whether it is what the part may take at the most, and may be far from it.
    """

    what: str
    size: float
    how: str
    limit: bool = False


@dataclass(frozen=True)
class Phase:
    """What lies in a memory at the same time, where it is most."""

    name: str
    parts: tuple[Part, ...]

    @property
    def size(self) -> float:
        """Bytes of all parts."""
        return sum(part.size for part in self.parts)

    @property
    def least(self) -> float:
        """Bytes of the parts that are taken for certain."""
        return sum(part.size for part in self.parts if not part.limit)


@dataclass(frozen=True)
class Load:
    """What passes through the model at a time.

    Attributes:
        tokens: of prompts and responses, padding included.
        patches: of pictures and videos.
        predicted: tokens whose log-probabilities are worked out.
        logit: bytes that are held of each logit; None for the packed engine's head, which makes logits in chunks.
    """

    tokens: int
    patches: int
    predicted: int
    logit: float | None = None


@dataclass(frozen=True)
class Setup:
    """A run's settings, as far as they decide on memory.

    Attributes:
        nodes: machines.
        gpus_per_node: GPUs of each.
        gpu_memory: of a card, in the GB by which it is called.
        sharing: ranks that share one copy of weights, gradients and moments; all of them if it is not above 0.
        packed: whether the packed engine trains; else verl's own, by micro-batches of responses.
        budget: tokens of a pack in an update.
        log_prob_budget: the same in a log-prob pass.
        micro_batch: responses at a time in an update of verl's own engine.
        log_prob_micro_batch: the same in a log-prob pass.
        prompt: tokens that a prompt may have.
        response: tokens that a response may have.
        prompts: of a step.
        log_probs: whether log-probabilities are computed before the update.
        reference: whether a reference model is held.
        entropy: whether an update works out the entropy.
        share: of a card, vLLM's.
        tensor_parallel: GPUs that share one copy of vLLM's weights.
        bucket: MiB in which weights go to vLLM.
        offload_moments: Adam's moments are in host memory but for the update.
        offload_weights: so are the weights but for log-probs, update and checkpoint.
        offload_all: weights, gradients and moments never are on the card but for a layer's, gathered.
        keep_gradients: gradients are shared out after the last micro-batch of an update alone.
        checkpoints: that are kept; None for all of them.
        adapter: weights that are trained in place of the model's own (LoRA); 0 where these are.
    """

    shapes: Shapes
    nodes: int
    gpus_per_node: int
    gpu_memory: float
    sharing: int
    packed: bool
    budget: int
    log_prob_budget: int
    micro_batch: int
    log_prob_micro_batch: int
    prompt: int
    response: int
    prompts: int
    log_probs: bool
    reference: bool
    entropy: bool
    share: float
    tensor_parallel: int
    bucket: int
    offload_moments: bool
    offload_weights: bool
    offload_all: bool
    keep_gradients: bool
    checkpoints: int | None
    adapter: int = 0

    @property
    def weights(self) -> int:
        """Of the trainer: the model's, and an adapter's."""
        return self.shapes.parameters + self.adapter

    @property
    def trained(self) -> int:
        """Weights that have gradients and moments."""
        return self.adapter or self.shapes.parameters

    @property
    def gpus(self) -> int:
        """GPUs in all, each with a rank of the trainer."""
        return self.nodes * self.gpus_per_node

    @property
    def shards(self) -> int:
        """Parts that weights, gradients and moments are cut into."""
        return self.sharing if 0 < self.sharing < self.gpus else self.gpus

    @property
    def card(self) -> float:
        """Bytes of a card."""
        return self.gpu_memory * SHOWN * GIB

    @property
    def room(self) -> float:
        """Bytes of a card that a phase may take."""
        return (1 - SPARE) * self.card

    @property
    def longest(self) -> int:
        """Tokens that a prompt with its response may have."""
        return self.prompt + self.response

    def load(self, phase: str) -> Load:
        """The most that passes through the model at a time in ``log-probs`` or ``update``."""
        merge = self.shapes.tower.merge**2
        if self.packed:
            # Short replies leave a pack to its prompts: all of it may be pictures, and all but one token predicted.
            tokens = self.budget if phase == "update" else self.log_prob_budget
            return Load(tokens, merge * tokens, tokens)
        rows = self.micro_batch if phase == "update" else self.log_prob_micro_batch
        tokens = rows * self.longest
        held = "update without entropy" if phase == "update" and not self.entropy else phase
        return Load(tokens, merge * rows * self.prompt, tokens, PLAIN_LOGITS[held])


# --- activations ------------------------------------------------------------------------------------------------


def backward(shapes: Shapes, load: Load, frozen: bool = False) -> Phase:
    """Activations of forward and backward pass in bfloat16 with gradient checkpointing, where they are most.

    Weights and their gradients are not among them, but for a tied head's gradient: it is whole until the embeddings'
    joins it, in the last moment of the backward pass. What an adapter keeps is not counted: rank by rank it is little.

    Args:
        shapes: of the model.
        load: what passes through it.
        frozen: whether its own weights have no gradients.
    """
    text, tower = shapes.text, shapes.tower
    tokens, patches, hidden, wide = load.tokens, load.patches, text.hidden, tower.hidden
    heads, keys = text.heads * text.head_dim, text.kv_heads * text.head_dim
    # Float32 pixels and their bfloat16 copy; mergers, which are not checkpointed, keep what they pass on.
    mergers = 12 if tower.gated else 4 + 6 * tower.deep
    a_patch = (2 * tower.depth + mergers) * wide + 6 * tower.inputs + _deep(shapes)
    seen = Part(
        "kept of the vision tower",
        a_patch * patches,
        f"{a_patch:,} bytes × {patches:,} patches, {tower.merge**2} a token of a picture: {tower.depth} blocks × "
        f"{wide:,} × 2 bytes, pixels, {1 + tower.deep} mergers",
    )
    kept = Part(
        "kept between layers",
        2 * hidden * text.layers * tokens,
        f"{text.layers} layers × {hidden:,} × 2 bytes × {tokens:,} tokens",
    )
    # At the product of gate and up: both, their activation and the gradients of all three, 12 bytes; two norms in
    # float32 with what they make, residuals and their gradient, 18; queries, keys, values and attention's output; norms
    # of queries and keys, in float32 too.
    a_token = 12 * text.intermediate + 18 * hidden + 4 * heads + 4 * keys + (6 * (heads + keys) if text.norms else 0)
    layer = Part("a layer in backward", a_token * tokens, f"{a_token:,} bytes × {tokens:,} tokens")
    in_block = (12 if tower.gated else 6) * tower.intermediate + 26 * wide
    block = Part("a block of the tower in backward", in_block * patches, f"{in_block:,} bytes × {patches:,} patches")
    gradient = Part("gradient of the head", 2 * text.head, f"{text.vocabulary:,} words × {hidden:,} × 2 bytes")
    waits = (replace(gradient, what="gradient of the tied head, which waits"),) if text.tied and not frozen else ()
    at_head = () if frozen else (gradient,)
    moments = (
        Phase("head", (kept, seen, *_head(shapes, load, of_norm=6, of_predicted=4), *at_head)),
        Phase("layer", (kept, seen, layer, *waits)),
        Phase("tower", (seen, block, *waits)),
    )
    return max(moments, key=lambda moment: moment.size)


def forward(shapes: Shapes, load: Load) -> Phase:
    """Activations of a forward pass without gradients, in bfloat16, where they are most."""
    text, tower = shapes.text, shapes.tower
    tokens, patches, hidden = load.tokens, load.patches, text.hidden
    heads, keys = text.heads * text.head_dim, text.kv_heads * text.head_dim
    a_token = 6 * text.intermediate + (10 if tower.deep else 8) * hidden
    a_patch = (40 if tower.gated else 50) * tower.hidden  # where queries and keys are turned, in float32
    shown = 6 * tower.inputs + _deep(shapes)
    pixels = Part("pixels and features", shown * patches, f"{shown:,} bytes × {patches:,} patches")
    layer = Part("a layer", a_token * tokens, f"{a_token:,} bytes × {tokens:,} tokens")
    # Where what a response sees of its prompt joins what it sees of itself, in float32.
    attends = 4 * heads + 4 * keys + 8 * hidden
    joined = Part(
        "an attention",
        attends * tokens + 14 * heads * load.predicted,
        f"{attends:,} bytes × {tokens:,} tokens, {14 * heads:,} × {load.predicted:,} of responses",
    )
    block = Part("a block of the tower", a_patch * patches, f"{a_patch:,} bytes × {patches:,} patches")
    moments = (
        Phase("head", (pixels, *_head(shapes, load, of_norm=4, of_predicted=2))),
        Phase("layer", (pixels, layer)),
        Phase("attention", (pixels, joined)),
        Phase("tower", (pixels, block)),
    )
    return max(moments, key=lambda moment: moment.size)


def _deep(shapes: Shapes) -> int:
    """Bytes a patch of the features that go to the first layers of the language model."""
    tower = shapes.tower
    return tower.deep * 2 * tower.out // tower.merge**2


def _head(shapes: Shapes, load: Load, of_norm: int, of_predicted: int) -> Iterator[Part]:
    """The last hidden states, of all tokens and of those that predict, and logits."""
    text = shapes.text
    size = text.hidden * (of_norm * load.tokens + of_predicted * load.predicted)
    yield Part(
        "hidden states at the head",
        size,
        f"{text.hidden:,} × ({of_norm} bytes × {load.tokens:,} tokens + {of_predicted} × {load.predicted:,} predicted)",
    )
    if load.logit is not None:
        yield Part(
            "logits of every token",
            load.logit * load.tokens * text.vocabulary,
            f"{load.tokens:,} tokens × {text.vocabulary:,} words × {load.logit:g} bytes",
        )
        return
    row = BYTES_PER_LOGIT * text.vocabulary
    yield Part(
        "logits, in chunks",
        min(row * load.predicted, max(row, HEAD_MIB << 20)),
        f"{HEAD_MIB} MiB at most, whatever the number of tokens",
    )


# --- a card -----------------------------------------------------------------------------------------------------


def phases(setup: Setup) -> list[Phase]:
    """What each phase of a step takes of a card."""
    found = [_rollout(setup), _update(setup), _weight_sync(setup), _checkpoint(setup)]
    if setup.log_probs or setup.reference:
        found.insert(1, _log_probs(setup))
    return found


def _sharded(setup: Setup, what: str, bytes_each: int, weights: int) -> Part:
    size = bytes_each * weights / setup.shards
    ranks = f" / {setup.shards} GPUs" if setup.shards > 1 else ""
    return Part(what, size, f"{weights:,} weights × {bytes_each} bytes{ranks}")


def _held(setup: Setup, *, weights: bool = False, gradients: bool = False, moments: bool = False) -> list[Part]:
    """The trainer's shards that a phase finds on the card."""
    if setup.offload_all:
        return []
    found = []
    if weights:
        found.append(_sharded(setup, "weights, float32", 4, setup.weights))
    if gradients:
        found.append(_sharded(setup, "gradients, float32", 4, setup.trained))
    if moments:
        found.append(_sharded(setup, "Adam's moments, float32", 8, setup.trained))
    return found


def _asleep() -> list[Part]:
    return [
        Part("vLLM asleep", _ASLEEP, "CUDA graphs and small buffers; assumed"),
        Part("CUDA contexts", _CONTEXTS, "of two processes, with cuBLAS and NCCL; assumed"),
    ]


def _gathered(setup: Setup) -> Part:
    """Whole bfloat16 weights of the layer at work and of the next, and of all that is in no layer."""
    shapes, text, tower = setup.shapes, setup.shapes.text, setup.shapes.tower
    apart = 0 if text.tied else text.head  # an untied head and untied embeddings are gathered as layers are
    layers = text.layers * text.layer_linear + tower.depth * tower.layer_linear + 2 * apart
    rest = shapes.parameters - layers
    beside, whose = max((text.layer_linear, "the next one's"), (apart, "the head's"))
    return Part(
        "weights gathered, bfloat16",
        2 * (text.layer_linear + beside + rest),
        f"a layer's {text.layer_linear:,}, {whose} {beside:,} and {rest:,} outside of layers × 2 bytes",
    )


def _reduced(setup: Setup) -> list[Part]:
    """Gradients on their way to their shards."""
    text = setup.shapes.text
    if setup.adapter:
        of_layer = setup.adapter // text.layers
        how = f"a layer's adapter, {of_layer:,} × 2 bytes, the one's before it × 4 bytes, in float32"
        return [Part("gradients on their way", 6 * of_layer, how)]
    beside, whose = max((text.layer_linear, "the one's before it"), (0 if text.tied else text.head, "the head's"))
    found = [
        Part(
            "gradients on their way",
            2 * text.layer_linear + 4 * beside,
            f"a layer's {text.layer_linear:,} × 2 bytes, {whose} {beside:,} × 4 bytes, in float32",
        )
    ]
    if setup.keep_gradients:
        whole = 4 * setup.trained
        found.append(
            Part("gradients kept whole, float32", whole, "use_no_sync_for_gradient_accumulation: all weights × 4 bytes")
        )
    return found


def _rollout(setup: Setup) -> Phase:
    shapes, parallel = setup.shapes, setup.tensor_parallel
    weights = 2 * shapes.parameters / parallel
    among = f" / {parallel} GPUs" if parallel > 1 else ""
    return Phase(
        "rollout",
        (
            Part("vLLM: weights, bfloat16", weights, f"{shapes.parameters:,} × 2 bytes{among}"),
            Part(
                "vLLM: the rest of its share",
                max(0.0, setup.share * setup.card - weights),
                f"{setup.share:g} of a card less the weights; {_WORKSPACE / GIB:g} GiB of it for activations "
                f"(assumed), a cache of about {max(0.0, _cached(setup)):,.0f} tokens",
            ),
            *_beside_vllm(setup),
        ),
    )


def _beside_vllm(setup: Setup) -> list[Part]:
    """What lies on a card while vLLM is awake."""
    return [
        *_held(setup, weights=not setup.offload_weights, moments=not setup.offload_moments),
        Part("CUDA contexts", _CONTEXTS, "of two processes, with cuBLAS and NCCL; assumed"),
    ]


def _cached(setup: Setup) -> float:
    """Tokens that vLLM's cache of keys and values has room for."""
    text = setup.shapes.text
    a_token = 4 * text.layers * text.kv_heads * text.head_dim / setup.tensor_parallel
    free = setup.share * setup.card - 2 * setup.shapes.parameters / setup.tensor_parallel - _WORKSPACE
    return free / a_token


def _log_probs(setup: Setup) -> Phase:
    held = _held(setup, weights=True, moments=not setup.offload_moments)
    moment = forward(setup.shapes, setup.load("log-probs"))
    return Phase("log-probs", (*held, _gathered(setup), *moment.parts, *_asleep()))


def _update(setup: Setup) -> Phase:
    held = _held(setup, weights=True, gradients=True, moments=True)
    moment = backward(setup.shapes, setup.load("update"), frozen=bool(setup.adapter))
    passes = Phase("update", (*held, _gathered(setup), *_reduced(setup), *moment.parts, *_asleep()))
    if setup.offload_all:
        return passes
    # torch's AdamW works on all weights at once (foreach), with a copy of one moment.
    step = Phase("update", (*held, _sharded(setup, "Adam's step: a copy of a moment", 4, setup.trained), *_asleep()))
    return max(passes, step, key=lambda phase: phase.size)


def _weight_sync(setup: Setup) -> Phase:
    text, parallel = setup.shapes.text, setup.tensor_parallel
    held = _held(setup, weights=not setup.offload_weights, moments=not setup.offload_moments)
    among = f" / {parallel} GPUs" if parallel > 1 else ""
    return Phase(
        "weight sync",
        (
            Part(
                "vLLM: weights, bfloat16",
                2 * setup.shapes.parameters / parallel,
                f"{setup.shapes.parameters:,} × 2 bytes{among}; its cache comes after",
            ),
            *held,
            Part("bucket", setup.bucket << 20, f"update_weights_bucket_megabytes={setup.bucket}"),
            Part("largest weight, whole", 4 * text.head, f"{text.vocabulary:,} words × {text.hidden:,} × 4 bytes"),
            *_asleep(),
        ),
    )


def _checkpoint(setup: Setup) -> Phase:
    held = _held(setup, weights=True, moments=not setup.offload_moments)
    return Phase("checkpoint", (*held, *_asleep()))


# --- a machine --------------------------------------------------------------------------------------------------


def machine(setup: Setup) -> list[Phase]:
    """What each machine of the run takes of host memory, of /dev/shm (which is a part of it), and of the disk."""
    return [*host(setup), _shared_memory(setup), _disk(setup)]


def _media(setup: Setup, copies: int, what: str, why: str) -> Part:
    """Pixels of a step's prompts, a byte a value, if all of them are of the longest."""
    tower = setup.shapes.tower
    patches = tower.merge**2 * setup.prompt
    return Part(
        what,
        copies * tower.inputs * patches * setup.prompts,
        f"{why}: {copies} × {setup.prompts:,} prompts × {patches:,} patches × {tower.inputs:,} bytes, at the most",
        limit=True,
    )


def host(setup: Setup) -> Iterator[Phase]:
    """What each machine of the run takes of host memory, at the start and afterwards."""
    shapes, gpus = setup.shapes, setup.gpus_per_node
    servers = max(1, gpus // setup.tensor_parallel)
    processes = Part(
        "processes",
        _PROCESSES + gpus * _PROCESSES_A_GPU,
        f"{_PROCESSES / 1e9:g} GB and {_PROCESSES_A_GPU / 1e9:g} GB a GPU, as measured on the CPU",
    )
    loading = gpus if shapes.text.tied else 1  # verl loads on rank 0 alone what can be begun on the meta device
    why = "by every rank, as head and embeddings are tied" if shapes.text.tied else "by the first rank"
    model = Part(
        "the model, float32",
        4 * shapes.parameters * loading,
        f"loaded {why}: {loading} × {shapes.parameters:,} weights × 4 bytes",
    )
    yield Phase("host memory, at the start", (processes, model))
    parts = [processes]
    offloaded = [
        ("weights", 4, setup.weights, setup.offload_weights or setup.offload_all),
        ("gradients", 4, setup.trained, setup.offload_all),
        ("Adam's moments", 8, setup.trained, setup.offload_moments or setup.offload_all),
        ("reference model", 4, shapes.parameters, setup.reference and not setup.adapter),  # else the base is it
        ("weights while an adapter is merged, a copy", 4, shapes.parameters, bool(setup.adapter)),
    ]
    for what, size, weights, there in offloaded:
        if there:
            part = _sharded(setup, f"{what}, float32", size, weights)
            parts.append(Part(part.what, gpus * part.size, f"{part.how} × {gpus} on a machine"))
    parts += [
        _media(setup, 2, "features in the queue and on the ranks", "once each"),
        _media(setup, 1, "media on their way to vLLM", "in Ray's object store"),
        Part(
            "vLLM's caches of media",
            servers * _MEDIA_CACHE,
            f"{servers} × 4 GiB (mm_processor_cache_gb), at the most",
            limit=True,
        ),
        Part(
            "a tensor while saving",
            4 * gpus * shapes.text.head / setup.shards,
            f"{gpus} × the largest: {shapes.text.head:,} × 4 bytes / {setup.shards}",
        ),
    ]
    yield Phase("host memory", tuple(parts))


def _shared_memory(setup: Setup) -> Phase:
    gpus = setup.gpus_per_node
    servers = max(1, gpus // setup.tensor_parallel)
    of_server, of_gpu = _QUEUES
    return Phase(
        "/dev/shm",
        (
            _media(setup, 1, "media on their way to vLLM", "in Ray's object store"),
            Part(
                "vLLM's queues",
                servers * of_server + gpus * of_gpu,
                f"{servers} × {of_server >> 20} MiB, and {gpus} × {of_gpu >> 20} MiB",
            ),
        ),
    )


def _disk(setup: Setup) -> Phase:
    kept = 1 if setup.checkpoints is None else setup.checkpoints
    every = "; and as much with each further one" if setup.checkpoints is None else ""
    how = f"{kept} × ({setup.weights:,} weights × 4 bytes, {setup.trained:,} × 8 of Adam's moments), float32{every}"
    return Phase("disk", (Part("checkpoints", kept * (4 * setup.weights + 8 * setup.trained), how),))


# --- what fits --------------------------------------------------------------------------------------------------


def lacks(setup: Setup) -> list[str]:
    """What does not fit, a line each; empty if all does, with a tenth of the card to spare."""
    found = [
        f"{phase.name} takes {phase.size / GIB:.1f} GiB of the {setup.room / GIB:.1f} that are 90% of a card"
        for phase in phases(setup)
        if phase.size > setup.room
    ]
    if _cached(setup) < setup.longest:
        found.append(
            f"vLLM's share, {setup.share * setup.card / GIB:.1f} GiB, has no room beside its weights for one sequence "
            f"of {setup.longest:,} tokens"
        )
    return found


def too_small(setup: Setup) -> str | None:
    """Why no setting makes the model fit a card of this size; None if one may."""
    shapes, gpus = setup.shapes, setup.gpus_per_node
    rollout = 2 * shapes.parameters / gpus + _WORKSPACE + _CONTEXTS
    update = _gathered(setup).size + sum(part.size for part in (*_reduced(setup)[:1], *_asleep()))
    if max(rollout, update) <= setup.room:
        return None
    return (
        f"too small for this model, whatever the settings; vLLM needs {rollout / GIB:.1f} GiB with its weights spread "
        f"over {gpus} GPUs, a layer in training {update / GIB:.1f}, and 90% of a card is {setup.room / GIB:.1f}"
    )


def largest_budget(setup: Setup) -> int:
    """The most tokens of a pack with which update and log-probs fit, in steps of 1,024; 0 if none.

    It is one number for both passes: what fits the update fits the log-probs.
    """

    def fits(budget: int) -> bool:
        tried = replace(setup, budget=budget, log_prob_budget=budget)
        passes = [_update(tried), *([_log_probs(tried)] if setup.log_probs or setup.reference else [])]
        return all(phase.size <= setup.room for phase in passes)

    low, high = 0, 1
    while fits(high * STEP):
        low, high = high, 2 * high
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if fits(middle * STEP) else (low, middle)
    return low * STEP


def remedies(setup: Setup) -> list[Setup]:
    """The nearest settings that fit: on these cards, and on more where it takes host memory to fit these; none may be.

    In the order of what they cost: the packed engine, smaller packs, a smaller share for vLLM or its weights spread
    over GPUs; then moments in host memory, weights too, all of the trainer. More cards are as few as it takes, 64 at
    most.
    """
    offloads: tuple[dict[str, Any], ...] = (
        {"offload_moments": True},
        {"offload_moments": True, "offload_weights": True},
        {"offload_moments": False, "offload_weights": False, "offload_all": True},
    )
    if (tuned := _tuned(setup)) is not None:
        return [tuned]
    here = (_tuned(replace(setup, **offload)) for offload in offloads)
    counts = (gpus for gpus in (2, 4, 8, 16, 32, 64) if gpus > setup.gpus)
    more = (_tuned(replace(setup, nodes=-(-gpus // 8), gpus_per_node=min(gpus, 8))) for gpus in counts)
    firsts = (next((found for found in tried if found is not None), None) for tried in (here, more))
    return [found for found in firsts if found is not None]


def _tuned(setup: Setup) -> Setup | None:
    """The same with the packed engine, packs, vLLM's share and its spread such that it fits; None if it cannot."""
    setup = replace(setup, packed=True, keep_gradients=False)
    if (largest := largest_budget(setup)) < setup.longest:
        return None
    setup = replace(setup, budget=min(setup.budget, largest), log_prob_budget=min(setup.log_prob_budget, largest))
    beside = sum(part.size for part in _beside_vllm(setup))
    twentieths = int((setup.room - beside) / setup.card * 20)
    for parallel in (1, 2, 4, 8):
        if parallel >= setup.tensor_parallel and setup.gpus_per_node % parallel == 0:
            tried = replace(setup, tensor_parallel=parallel, share=min(setup.share, twentieths / 20))
            if not lacks(tried):
                return tried
    return None
