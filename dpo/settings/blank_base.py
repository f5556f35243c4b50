"""For a base that has never seen a sum answered, such as the course's, and 40,000 pairs.

Large steps of Muon, and NLL, in which digits weigh more: all else is learnt long before them.
Two passes, since the reference scores the pairs once for both.
"""

optimizer = "muon"
muon_lr = 0.01
base_lr = 1e-3
nll_coef = 1.0
digit_weight = 4.0
epochs = 2
batch_size = 128
eval_every = 60
