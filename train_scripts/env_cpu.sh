# Sourced: what verl, vLLM and torch need to know on a machine without a GPU.
export VERL_PLATFORM=cpu VERL_USE_EXTERNAL_MODULES=jigsaw.verl_plugin.install
export VERL_ENGINE_DEVICE=cuda # verl 0.9.1 lists its FSDP engine under cuda and npu alone; the class itself runs on any device
export VLLM_CPU_KVCACHE_SPACE=1 VLLM_CPU_OMP_THREADS_BIND=nobind # GiB; no pinning: the ranks share the cores
export TORCHDYNAMO_DISABLE=1 # vLLM compiles its sampler otherwise, which needs a C++ compiler and a quarter of a minute
export OMP_NUM_THREADS=2 TOKENIZERS_PARALLELISM=false # rollout and update take turns
export HF_HUB_OFFLINE=1 TRANSFORMERS_OFFLINE=1
export RAY_USAGE_STATS_ENABLED=0 VLLM_NO_USAGE_STATS=1 DO_NOT_TRACK=1
