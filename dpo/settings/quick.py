"""A third of the pairs and larger steps: to see in a minute that everything works."""

max_pairs = 1024
base_lr = 2e-5
eval_every = 8
eval_questions = 50
