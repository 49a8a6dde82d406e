# The worker's image with what its tests need.
FROM retort-worker
USER root
RUN python -m ensurepip && python -m pip install --no-cache-dir pytest
USER 10001
