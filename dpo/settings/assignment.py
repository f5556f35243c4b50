"""The course's own settings and its hinted loss.

That is not DPO: it has no reference, beta divides, and prompts are scored.
"""

loss_type = "assignment"
beta = 0.5
nll_coef = 0.0  # the hint has 0.1 times the chosen text's likelihood inside
base_lr = 1e-4
epochs = 5
batch_size = 64
max_length = 64
