"""One thread per test process; shapes are checked at run time where tensors flow (the boundary modules have errors of their own)."""

import os

os.environ["OMP_NUM_THREADS"] = "1"
os.environ.setdefault("MPLBACKEND", "agg")

import torch
from jaxtyping import install_import_hook

torch.set_num_threads(1)
install_import_hook(["sciar.batch", "sciar.diffusion", "sciar.families", "sciar.nn"], "shapes.check")
