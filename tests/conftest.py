"""Settings of every test: two CPU devices, shapes checked while testing, and no silent broadcasting of ranks."""

import jax
from jaxtyping import install_import_hook

jax.config.update("jax_num_cpu_devices", 2)
jax.config.update("jax_numpy_rank_promotion", "raise")

CORE = ("schedules", "process", "losses", "samplers", "guidance")
install_import_hook([f"ddpm_jax.{name}" for name in CORE], "beartype.beartype")
