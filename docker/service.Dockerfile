# The HTTP front end and the migrations: no torch.
FROM python:3.11-slim AS build
ENV UV_COMPILE_BYTECODE=1 UV_LINK_MODE=copy
WORKDIR /src
RUN python -m venv /opt/retort && pip install --no-cache-dir uv==0.13.8
COPY requirements.lock pyproject.toml ./
# Packages change less often than the project itself.
RUN uv pip install --no-cache --python /opt/retort/bin/python --constraint requirements.lock \
    --requirements pyproject.toml --extra service
COPY README.md LICENSE ./
COPY retort retort
COPY service service
COPY worker worker
RUN uv pip install --no-cache --python /opt/retort/bin/python --no-deps --build-constraint requirements.lock .

FROM python:3.11-slim
RUN useradd --system --create-home --home-dir /var/lib/retort --uid 10001 retort
COPY --from=build /opt/retort /opt/retort
ENV PATH=/opt/retort/bin:$PATH PYTHONUNBUFFERED=1 RETORT_DATA_DIR=/var/lib/retort
COPY docker/api_alive.py /opt/retort/api_alive.py
WORKDIR /var/lib/retort
USER 10001
EXPOSE 8765
HEALTHCHECK --interval=10s --timeout=5s --start-period=20s \
    CMD ["python", "-I", "-S", "/opt/retort/api_alive.py"]
CMD ["python", "-m", "service.app", "--host", "0.0.0.0", "--port", "8765"]
