"""The catalogue of export formats."""
