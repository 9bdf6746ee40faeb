"""What verl, vLLM and torch need to know on a machine without a GPU: environment variables, set before they start."""

ENVIRONMENT = {
    "VERL_PLATFORM": "cpu",
    "VERL_USE_EXTERNAL_MODULES": "jigsaw.verl_plugin.install",
    # verl 0.9.1 lists its FSDP engine under cuda and npu alone; the class itself runs on any device.
    "VERL_ENGINE_DEVICE": "cuda",
    "VLLM_CPU_KVCACHE_SPACE": "1",  # GiB
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",  # the ranks share the cores
    # Replies do not depend on what is answered beside them: an attention over a long reply is not cut as others are.
    "VLLM_CPU_ATTN_SPLIT_KV": "0",
    # vLLM compiles its sampler otherwise, which needs a C++ compiler and a quarter of a minute.
    "TORCHDYNAMO_DISABLE": "1",
    "OMP_NUM_THREADS": "2",  # rollout and update take turns
    "TOKENIZERS_PARALLELISM": "false",
    "HF_HUB_OFFLINE": "1",
    "TRANSFORMERS_OFFLINE": "1",
    "RAY_USAGE_STATS_ENABLED": "0",
    "VLLM_NO_USAGE_STATS": "1",
    "DO_NOT_TRACK": "1",
}

if __name__ == "__main__":  # for shells, see train_scripts/env_cpu.sh
    for name, value in ENVIRONMENT.items():
        print(f"export {name}={value}")
