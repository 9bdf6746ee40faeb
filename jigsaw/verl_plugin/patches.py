"""Mends of verl and vLLM that every machine needs, one function a patch. Each goes when its test says so."""

from typing import Any

import torch
from tensordict import TensorDict

from jigsaw.errors import JigsawError
from jigsaw.verl_plugin.features import Reader, decode_shared
from jigsaw.verl_plugin.placement import wait_for_actors, wait_for_group


def position_ids_of_equal_length() -> None:
    """Keep multimodal batches whose sequences all have one length from crashing.

    TransferQueue packs (4, L) position ids of equal L as ragged along dimension 1; verl then declares them
    ragged along 2 without moving a number, and the first ``unbind`` raises. Seen in verl 0.9.1
    (utils/tensordict_utils.py, ``maybe_fix_3d_position_ids``). A model that answers in a fixed format hits it.
    """
    from verl.utils import tensordict_utils

    declare_ragged = tensordict_utils.maybe_fix_3d_position_ids

    def repack(data: TensorDict) -> None:
        ids: Any = data.get("position_ids", None)
        if ids is not None and ids.is_nested and ids.dim() == 3:
            values, offsets = ids.values(), ids.offsets()
            packed_rows = values.shape[0] == int(offsets[-1]) and values.shape[0] % ids.shape[0] == 0
            if packed_rows and len(offsets.diff().unique()) == 1:
                rows = list(values.split(offsets.diff().tolist()))
                data["position_ids"] = tensordict_utils.nested_tensor_from_tensor_list(rows, ragged_idx=2)
                return
        declare_ragged(data)

    tensordict_utils.maybe_fix_3d_position_ids = repack


def one_tower_call() -> None:
    """Call the vision tower exactly once a micro-batch, whatever it holds: images, videos, both or text alone.

    verl 0.9.1 calls it once for the images and once more for the videos (models/transformers/qwen2_vl.py and
    qwen3_vl.py, ``_get_input_embeds``). Under FSDP a call is a row of collectives, so ranks whose micro-batches differ
    wait for one another for ever. Qwen2.5-VL's dummy call for text alone, such as verl's own padding rows, fails with
    transformers 5.9.0.
    """
    from verl.models.transformers import qwen2_vl, qwen3_vl

    def embed_qwen2_5_vl(*given: Any, **named: Any) -> tuple[torch.Tensor, torch.Tensor | None]:
        found = _embed(*given, **named)
        return found["inputs_embeds"], found["attention_mask"]

    qwen2_vl._get_input_embeds = embed_qwen2_5_vl
    qwen3_vl._get_input_embeds = _embed


def _embed(
    model: Any,
    input_ids: torch.Tensor,
    attention_mask: torch.Tensor | None = None,
    pixel_values: torch.Tensor | None = None,
    pixel_values_videos: torch.Tensor | None = None,
    image_grid_thw: torch.Tensor | None = None,
    video_grid_thw: torch.Tensor | None = None,
) -> dict[str, Any]:
    """What Qwen3-VL's language model takes; of Qwen2.5-VL the tower shows no earlier layers."""
    from verl.utils.transformers_compat import unpack_visual_output

    embeds, vision = model.get_input_embeddings()(input_ids), model.config.vision_config
    side = vision.spatial_merge_size  # side × side patches are one token

    def tower(patches: torch.Tensor, grids: torch.Tensor) -> tuple[torch.Tensor, list[torch.Tensor]]:
        output = model.visual(patches.type(model.visual.dtype), grid_thw=grids)
        seen, levels = unpack_visual_output(output)
        return seen.to(embeds), [level.to(embeds) for level in levels or ()]

    given = (
        (model.config.image_token_id, pixel_values, image_grid_thw),
        (model.config.video_token_id, pixel_values_videos, video_grid_thw),
    )
    shown = [(token, patches, grids) for token, patches, grids in given if patches is not None]
    if not shown:
        pixels = vision.in_channels * vision.temporal_patch_size * vision.patch_size**2
        seen, levels = tower(embeds.new_zeros(side**2, pixels), input_ids.new_tensor([[1, side, side]]))
        # So that the tower's backward pass runs too.
        embeds = embeds + 0.0 * sum(features.mean() for features in (seen, *levels))
        return {
            "inputs_embeds": embeds,
            "attention_mask": attention_mask,
            "visual_pos_masks": None,
            "deepstack_visual_embeds": None,
        }
    tokens, patches, grids = zip(*shown, strict=True)
    seen, levels = tower(torch.cat(patches), torch.cat(grids))
    parts = torch.split(seen, [len(part) // side**2 for part in patches])
    places = [input_ids == token for token in tokens]
    for token, place, part in zip(tokens, places, parts, strict=True):
        if int(place.sum()) != len(part):
            raise JigsawError(f"{int(place.sum())} tokens (id {token}) stand for {len(part)} visual features")
        embeds = embeds.masked_scatter(place.unsqueeze(-1), part)
    order = torch.cat([place.flatten().nonzero()[:, 0] for place in places]).argsort()
    return {
        "inputs_embeds": embeds,
        "attention_mask": attention_mask,
        "visual_pos_masks": torch.stack(places).any(0),
        "deepstack_visual_embeds": [level[order] for level in levels],
    }


def video_rates_reach_vllm() -> None:
    """Let vLLM tell the processor of Qwen2.5-VL the rate of a video's frames.

    vLLM 0.24.0 drops the metadata that comes with a video for this model (multimodal/parse.py,
    ``video_needs_metadata``); transformers then takes 24 frames a second for granted, and the rollout places every
    frame of a clip at one moment. vLLM calls this as a general plug-in (pyproject.toml) in each of its processes.
    """
    from vllm.model_executor.models import qwen2_5_vl, qwen2_vl

    class Parser(qwen2_vl.Qwen2VLMultiModalDataParser):  # type: ignore[misc]
        def _parse_video_data(self, data: Any) -> Any:
            # vLLM's own dummy videos, by which it sizes its memory, have no metadata.
            self.video_needs_metadata = isinstance(data, list) and all(isinstance(video, tuple) for video in data)
            return super()._parse_video_data(data)

    def get_data_parser(info: Any) -> Parser:
        return Parser(
            info.get_hf_config().vision_config.spatial_merge_size,
            expected_hidden_size=info._get_expected_hidden_size(),
        )

    call_processor = qwen2_5_vl.Qwen2_5_VLMultiModalProcessor._call_hf_processor

    def call_with_metadata(self: Any, prompt: Any, mm_data: Any, mm_kwargs: Any, tok_kwargs: Any) -> Any:
        videos = mm_data.get("videos")
        if videos and isinstance(videos[0], tuple):
            frames, metadata = zip(*videos, strict=True)
            # What vLLM's server makes of a request holds an option of the processor besides.
            told = [{name: value for name, value in each.items() if name != "do_sample_frames"} for each in metadata]
            mm_data = {**mm_data, "videos": list(frames), "video_metadata": told}
            mm_kwargs = {**mm_kwargs, "do_sample_frames": False}
        return call_processor(self, prompt, mm_data, mm_kwargs, tok_kwargs)

    qwen2_5_vl.Qwen2_5_VLProcessingInfo.get_data_parser = get_data_parser
    qwen2_5_vl.Qwen2_5_VLMultiModalProcessor._call_hf_processor = call_with_metadata


def queues_leave_no_files() -> None:
    """Take the names of vLLM's queues out of /dev/shm once all who read them have them open; memory needs no name.

    vLLM 0.24.0 does it when a queue is collected (distributed/device_communicators/shm_broadcast.py,
    ``ShmRingBuffer.__del__``). Ray ends an engine by SIGKILL, and Python's tracker of such names with it, so each run
    left 0.4 GiB of ``psm_…`` there. vLLM calls this as a general plug-in (pyproject.toml) in each of its processes.
    """
    from vllm.distributed.device_communicators.shm_broadcast import MessageQueue

    wait_until_ready = MessageQueue.wait_until_ready

    def wait_and_unlink(queue: Any) -> None:
        wait_until_ready(queue)
        if queue._is_writer and queue.buffer is not None:
            queue.buffer.shared_memory.unlink()
            queue.buffer.is_creator = False  # or it would be unlinked once more

    MessageQueue.wait_until_ready = wait_and_unlink


def features_are_carried_once() -> None:
    """Let a rank of the trainer read a prompt's features once for all of its responses (see features.py).

    verl 0.9.1 has no place to plug this in: it fetches a batch for a rank (utils/transferqueue_utils.py,
    ``_async_meta_to_realdata``) with the features in each row, and joins them for a micro batch (utils/model.py,
    ``extract_multi_modal_inputs``). Rows that hold their features, as verl's own agent loops make them, pass unchanged.
    """
    from verl.utils import model, transferqueue_utils

    fetch, join = transferqueue_utils._async_meta_to_realdata, model.extract_multi_modal_inputs
    reader = Reader()

    async def fetch_and_resolve(meta: Any) -> TensorDict:
        batch = await fetch(meta)
        await reader.resolve(batch)
        return batch

    def decode_and_join(batch_data: Any, indices: Any = None) -> dict[str, Any]:
        joined: dict[str, Any] = join(decode_shared(batch_data), indices)
        return joined

    transferqueue_utils._async_meta_to_realdata = fetch_and_resolve
    model.extract_multi_modal_inputs = decode_and_join


def placements_end() -> None:
    """Have a run end where Ray cannot place what verl and its queue ask for (see placement.py).

    verl 0.9.1 waits without a limit for its placement groups (single_controller/ray/base.py, ``get_placement_groups``),
    TransferQueue 0.1.11 for the actors of its queue (utils/zmq_utils.py, ``process_zmq_server_info``).
    """
    from transfer_queue import interface
    from transfer_queue.storage.bootstrap import simple_storage_bootstrap
    from verl.single_controller.ray import base

    set_aside, ask = base.placement_group, interface.process_zmq_server_info

    def set_aside_in_time(bundles: Any, **options: Any) -> Any:
        group = set_aside(bundles=bundles, **options)
        wait_for_group(group, bundles)
        return group

    def ask_once_placed(actors: Any) -> Any:
        wait_for_actors(list(actors.values()) if isinstance(actors, dict) else [actors])
        return ask(actors)

    base.placement_group = set_aside_in_time
    interface.process_zmq_server_info = ask_once_placed
    simple_storage_bootstrap.process_zmq_server_info = ask_once_placed


def responses_are_put_by(queue: Any) -> None:
    """Give the agent-loop worker of this process, which has it to itself, another queue to put its responses into.

    verl 0.9.1 (trainer/ppo/v1/agent_loop_tq.py) joins the rows of a response and puts them at once; here the queue
    joins those of all of a prompt's responses.
    """
    from verl.trainer.ppo.v1 import agent_loop_tq

    agent_loop_tq.tq = queue
    agent_loop_tq.list_of_dict_to_tensordict = list


def positions_of_the_rollout(processor: Any) -> None:
    """Have a processor of verl's place tokens as vLLM does, in time too.

    verl 0.9.1 takes the positions from transformers' model and never tells it how long frames last. transformers
    5.9.0 also cuts that time to whole seconds and lets the text behind a video begin before the video's last frame
    (modeling_qwen2_5_vl.py, ``get_rope_index``); vLLM, as Qwen's own code did, does neither. A rollout would then be
    trained on other positions than it was made with. For pictures, and for Qwen3-VL, all agree.
    """
    from jigsaw.verl_plugin.positions import get_rope_index

    def time_of_frames(multi_modal_inputs: dict[str, Any]) -> dict[str, Any]:
        # Taken out: the positions are all that the model needs of it.
        return {"second_per_grid_ts": multi_modal_inputs.pop("second_per_grid_ts", None)}

    def place(
        input_ids: torch.Tensor, attention_mask: torch.Tensor, mm_token_type_ids: Any = None, **grids: Any
    ) -> tuple[torch.Tensor, None]:
        # verl's function looks behind every start of a picture, also one that a reply ends with.
        real = torch.isin(input_ids.roll(-1), pads) | (input_ids != start)
        ids = torch.where(real, input_ids, processor.tokenizer.eos_token_id)
        positions = get_rope_index(processor, ids[0], attention_mask=attention_mask[0], **grids)
        return (positions * attention_mask).unsqueeze(1), None

    pads = torch.tensor([processor.image_token_id, processor.video_token_id])
    start = processor.tokenizer.convert_tokens_to_ids("<|vision_start|>")
    processor.get_rope_index_kwargs = time_of_frames
    processor.get_rope_index = place


def sync_training_is_by(trainer: type) -> None:
    """Have verl make our trainer, in the process that runs it, where the mode is ``sync``.

    verl 0.9.1 asks for that mode by its name throughout its trainer, so one of our own would be taken for asynchronous;
    and ``register_trainer`` gives no name away twice.
    """
    from verl.trainer.ppo.v1 import trainer_base

    trainer_base.TRAINER_REGISTRY["sync"] = trainer


def apply() -> None:
    """Apply verl's patches; called once, at import, before verl's workers bind the names. vLLM calls its own itself."""
    position_ids_of_equal_length()
    features_are_carried_once()
    one_tower_call()
    placements_end()
