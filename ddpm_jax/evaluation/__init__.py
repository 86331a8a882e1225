"""The benchmark: what a model can do, pixel for pixel, beside a baseline that needs no network."""
