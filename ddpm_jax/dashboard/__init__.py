"""The dashboard: Generate, Train and Monitor in a browser. The pages never import jax; `worker` does, on its own."""
