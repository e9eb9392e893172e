# A CPU image by default; for CUDA: docker build --build-arg TORCH_INDEX=https://download.pytorch.org/whl/cu130 .
FROM python:3.11-slim-bookworm AS wheel
WORKDIR /src
COPY . .
RUN pip install --no-cache-dir --constraint constraints.txt build && python -m build --wheel --outdir /dist .

FROM python:3.11-slim-bookworm
# Where pip takes torch from: it is the same version, made for CPUs or for CUDA.
ARG TORCH_INDEX=https://download.pytorch.org/whl/cpu
ENV PIP_NO_CACHE_DIR=1 PYTHONUNBUFFERED=1 OMP_WAIT_POLICY=passive
COPY constraints.txt /tmp/constraints.txt
COPY --from=wheel /dist /dist
# The constraint has torch's version; the index decides on which hardware it runs.
RUN pip install --constraint /tmp/constraints.txt --index-url "$TORCH_INDEX" --extra-index-url https://pypi.org/simple torch \
    && wheel="$(echo /dist/*.whl)" \
    && pip install --constraint /tmp/constraints.txt "${wheel}[hub,lora,metrics,onnx]" \
    && rm -rf /dist /tmp/constraints.txt
RUN useradd --create-home --uid 1000 vardiu && mkdir /work && chown 1000 /work
USER 1000
WORKDIR /work
ENTRYPOINT ["vardiu"]
CMD ["--help"]
