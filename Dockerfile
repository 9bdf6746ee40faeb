# The GPU set of train_scripts/setup.sh, with what a machine needs beside it. The host brings a driver of 580.65 or newer
# and NVIDIA's container toolkit.
#
#   docker build --tag visual-jigsaw .
#   docker run --rm --gpus all --ipc host --volume "$PWD:/workspace" visual-jigsaw jigsaw doctor
FROM python:3.11-slim-bookworm

# Triton compiles its launchers while a run starts; Python's headers are in the image.
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install --yes --no-install-recommends gcc libc6-dev git \
    && rm -rf /var/lib/apt/lists/*

WORKDIR /opt/visual-jigsaw
COPY . .
# What a run writes lies in the clone's outputs; it must outlive the container.
RUN bash train_scripts/setup.sh gpu && rm -rf /root/.cache && ln -s /workspace/outputs outputs

ENV PATH=/opt/visual-jigsaw/.venv/bin:$PATH
WORKDIR /workspace
CMD ["jigsaw", "--help"]
