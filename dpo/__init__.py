"""Preference tuning: pairs, loss, training, evaluation. Start with dpo.ipynb."""
