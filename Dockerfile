# syntax=docker/dockerfile:1
#
# For a CPU, an image of about 2 GB:
#   docker build -t worldsim .
# For an NVIDIA GPU, about 6 GB (the torch of PyPI brings CUDA; the NVIDIA container toolkit runs it):
#   docker build -t worldsim:cuda --build-arg TORCH_INDEX=https://pypi.org/simple .
#
# What is written goes into the current folder:
#   docker run --rm -v "$PWD:/data" worldsim record ALE/Pong-v5 --out recordings/pong
#   docker run --rm -v "$PWD:/data" --gpus all worldsim:cuda train recordings/pong --out runs/pong
# There is no display in it: play with `--headless`, or outside.

FROM python:3.12-slim-bookworm

ARG TORCH_INDEX=https://download.pytorch.org/whl/cpu
ARG EXTRAS=atari,minari,rl,tensorboard,wandb

ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1 PYTHONUNBUFFERED=1
WORKDIR /src

# torch comes first and from its own index, which decides the build. It is a layer of its own, so
# that a change of the code does not fetch it again.
COPY constraints.txt .
RUN pip install torch -c constraints.txt \
    --index-url "${TORCH_INDEX}" --extra-index-url https://pypi.org/simple

COPY . .
RUN pip install ".[${EXTRAS}]" -c constraints.txt

RUN useradd --create-home --uid 1000 worldsim && install -d -o worldsim /data
USER worldsim
WORKDIR /data
ENTRYPOINT ["worldsim"]
CMD ["--help"]
