# pixelflow in a container. It was not built yet: there was no Docker engine where it was written.
#   docker build --tag pixelflow .                           # torch for the CPU
#   docker build --tag pixelflow --build-arg TORCH=cuda .    # torch for NVIDIA GPUs; run with --gpus all
#   docker run --rm --volume "$PWD/runs:/app/runs" pixelflow trainer.max_steps=500
# Words after the image's name are arguments of run.py. The user in the container has the id 1000, which must be able to
# write the mounted folder; another one is chosen by --user.
FROM python:3.12-slim-bookworm

# torch.compile (trainer.compile, sampler.compile) needs a compiler.
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install --yes --no-install-recommends g++ \
    && rm -rf /var/lib/apt/lists/*

WORKDIR /app
COPY constraints.txt pyproject.toml setup.py README.md LICENSE run.py evaluate.py ./

# cpu: the wheels without CUDA, from PyTorch's own index. cuda: those of PyPI, which bring the libraries of CUDA.
ARG TORCH=cpu
RUN if [ "$TORCH" = cpu ]; then \
      pip install --no-cache-dir --constraint constraints.txt --index-url https://download.pytorch.org/whl/cpu \
        torch torchvision; \
    fi

COPY pixelflow pixelflow
COPY conf conf
COPY experiments experiments
RUN pip install --no-cache-dir --constraint constraints.txt --editable '.[perceptual,text,server]' \
    && useradd --create-home --uid 1000 pixelflow \
    && install --directory --owner pixelflow runs

USER 1000
ENTRYPOINT ["python", "run.py"]
