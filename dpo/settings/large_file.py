"""For thousands of pairs, such as `python -m dpo.make_pairs --n=10000 --out=runs/pairs.json`.

One pass in large batches with small steps; NLL holds the chosen answers up meanwhile.
"""

epochs = 1
batch_size = 64
base_lr = 1e-5
nll_coef = 0.2
eval_every = 10
