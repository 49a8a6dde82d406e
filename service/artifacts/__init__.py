"""Artifacts: the files that jobs made, and the blobs behind them."""
