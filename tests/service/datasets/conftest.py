"""Uploads to make data sets of."""

from tests.service.uploads.conftest import bring as bring
