"""The same weights and the same characters for TRL's `DPOTrainer`: a Hugging Face GPT-2 and its tokenizer."""

import time

import torch
from datasets import Dataset
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
from torch import Tensor
from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast, TrainerCallback
from trl import DPOConfig, DPOTrainer

import sft.tokenizer
from dpo.pairs import Pair
from model import GPT

TRANSPOSED = ("c_attn.weight", "c_proj.weight", "c_fc.weight")  # GPT-2 stores these the other way round


def to_gpt2(model: GPT, attention: str = "sdpa") -> GPT2LMHeadModel:
    """A GPT-2 that computes the same function; the biases that our model lacks are 0."""
    c = model.config
    config = GPT2Config(
        vocab_size=c.vocab_size, n_positions=c.block_size, n_embd=c.n_embd, n_layer=c.n_layer, n_head=c.n_head,
        activation_function="gelu", resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0, bos_token_id=0, eos_token_id=0,
        attn_implementation=attention,
    )  # fmt: skip
    twin = GPT2LMHeadModel(config)
    weights = {
        name: tensor.T.contiguous() if name.endswith(TRANSPOSED) else tensor.clone()
        for name, tensor in model.state_dict().items()
    }
    missing, unexpected = twin.load_state_dict(weights, strict=False)
    assert not unexpected and all(name.endswith(".bias") for name in missing), (missing, unexpected)
    with torch.no_grad():
        for name, parameter in twin.named_parameters():
            if name.endswith(".bias"):
                parameter.zero_()
    return twin


def to_fast_tokenizer(tokenizer: sft.tokenizer.Tokenizer) -> PreTrainedTokenizerFast:
    """One token a character, with the same ids; the newline ends a text and pads."""
    characters = {tokenizer.decode([i]): i for i in range(len(tokenizer))}
    fast = Tokenizer(models.WordLevel(characters, unk_token="\n"))
    fast.pre_tokenizer = pre_tokenizers.Split(Regex(r"[\s\S]"), "isolated")
    fast.decoder = decoders.Fuse()
    return PreTrainedTokenizerFast(tokenizer_object=fast, eos_token="\n", pad_token="\n", unk_token="\n")


class Clock(TrainerCallback):
    """Seconds from the first step's beginning to the last step's end, loading of batches between them included."""

    def on_step_begin(self, args, state, control, **kwargs):
        if state.global_step == 0:
            self.started = time.perf_counter()

    def on_step_end(self, args, state, control, **kwargs):
        self.seconds = time.perf_counter() - self.started


def make_trainer(
    policy: GPT, reference: GPT, tokenizer: sft.tokenizer.Tokenizer, pairs: list[Pair],
    batch_size: int, beta: float, lr: float, precompute: bool = False, bf16: bool = False, tuned: bool = True,
) -> DPOTrainer:  # fmt: skip
    """TRL's trainer on these pairs for one epoch; `tuned` switches off what slows it down here.

    That is gradient checkpointing, and in bfloat16 torch's fused attention, which is slow there on a CPU.
    """
    attention = "eager" if bf16 and tuned else "sdpa"
    settings = DPOConfig(
        output_dir="runs/trl", per_device_train_batch_size=batch_size, num_train_epochs=1, learning_rate=lr,
        lr_scheduler_type="constant", beta=beta, max_length=None, precompute_ref_log_probs=precompute, bf16=bf16,
        gradient_checkpointing=not tuned, use_cpu=True, dataloader_pin_memory=False, optim="adamw_torch_fused",
        logging_strategy="no", save_strategy="no", report_to="none", disable_tqdm=True, seed=1,
    )  # fmt: skip
    rows = [{"prompt": p.prompt, "chosen": p.chosen, "rejected": p.rejected} for p in pairs]
    return DPOTrainer(
        to_gpt2(policy, attention), to_gpt2(reference, attention), settings, train_dataset=Dataset.from_list(rows),
        processing_class=to_fast_tokenizer(tokenizer), callbacks=[Clock()],
    )  # fmt: skip


def train_seconds(trainer: DPOTrainer) -> float:
    """Seconds of the steps of one `train()`."""
    trainer.train()
    return next(c.seconds for c in trainer.callback_handler.callbacks if isinstance(c, Clock))


def logps_and_metrics(trainer: DPOTrainer) -> tuple[Tensor, Tensor, float, dict[str, float]]:
    """Log-probabilities of every pair's two answers, and loss and means of one batch of all pairs, in order."""
    inputs = trainer.data_collator(list(trainer.train_dataset))
    chosen, rejected = trainer.compute_ref_log_probs(trainer.model.eval(), inputs)
    with torch.no_grad():
        loss = trainer.compute_loss(trainer.model, inputs).item()
    return chosen, rejected, loss, {name: values[-1] for name, values in trainer._metrics["eval"].items()}
