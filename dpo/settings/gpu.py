"""One CUDA card, or with torchrun several: larger passes, and bfloat16 on cards from Ampere on."""

device = "cuda"
micro_batch = 256
precision = "auto"
