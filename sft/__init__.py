"""The base model: vocabulary, checkpoints, corpus and the training that makes gpt.pt."""
