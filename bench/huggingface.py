"""Our model for TRL's `DPOTrainer`: a Hugging Face GPT-2 of the same weights, and its tokenizer."""

import tempfile
import time

import torch
from datasets import Dataset
from torch import Tensor
from transformers import AutoTokenizer, GPT2LMHeadModel, PreTrainedTokenizerBase, TrainerCallback
from trl import DPOConfig, DPOTrainer

from dpo.data.pair import Pair
from dpo.export import write_folder
from model import GPT
from sft.tokenizer import Tokenizer


def as_gpt2(
    model: GPT, tokenizer: Tokenizer, attention: str
) -> tuple[GPT2LMHeadModel, PreTrainedTokenizerBase]:
    """A GPT-2 that computes the same, and its tokenizer, in which the newline ends and pads."""
    with tempfile.TemporaryDirectory() as folder:
        write_folder(folder, model, tokenizer)
        twin = GPT2LMHeadModel.from_pretrained(folder, attn_implementation=attention)
        return twin, AutoTokenizer.from_pretrained(folder)


class Clock(TrainerCallback):
    """Seconds from the first step to the end of the last, loading of batches included."""

    def on_step_begin(self, args, state, control, **kwargs):
        if state.global_step == 0:
            self.started = time.perf_counter()

    def on_step_end(self, args, state, control, **kwargs):
        self.seconds = time.perf_counter() - self.started


def make_trainer(
    policy: GPT,
    reference: GPT,
    tokenizer: Tokenizer,
    pairs: list[Pair],
    batch_size: int,
    beta: float,
    lr: float,
    precompute: bool = False,
    bf16: bool = False,
    tuned: bool = True,
) -> DPOTrainer:
    """TRL's trainer on these pairs for one epoch; `tuned` switches off what slows it down here.

    That is gradient checkpointing, and in bfloat16 torch's fused attention, which is slow on a CPU.
    """
    attention = "eager" if bf16 and tuned else "sdpa"
    settings = DPOConfig(
        output_dir="runs/trl",
        per_device_train_batch_size=batch_size,
        num_train_epochs=1,
        learning_rate=lr,
        lr_scheduler_type="constant",
        beta=beta,
        max_length=None,
        precompute_ref_log_probs=precompute,
        bf16=bf16,
        gradient_checkpointing=not tuned,
        use_cpu=True,
        dataloader_pin_memory=False,
        optim="adamw_torch_fused",
        logging_strategy="no",
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
        seed=1,
    )
    rows = [{"prompt": p.prompt, "chosen": p.chosen, "rejected": p.rejected} for p in pairs]
    policy_twin, characters = as_gpt2(policy, tokenizer, attention)
    reference_twin, _ = as_gpt2(reference, tokenizer, attention)
    return DPOTrainer(
        policy_twin,
        reference_twin,
        settings,
        train_dataset=Dataset.from_list(rows),
        processing_class=characters,
        callbacks=[Clock()],
    )


def train_seconds(trainer: DPOTrainer) -> float:
    """Seconds of the steps of one `train()`."""
    trainer.train()
    return next(c.seconds for c in trainer.callback_handler.callbacks if isinstance(c, Clock))


def logps_and_metrics(trainer: DPOTrainer) -> tuple[Tensor, Tensor, float, dict[str, float]]:
    """Log-probabilities of chosen and rejected answers, (N,) each; loss and means of all pairs."""
    inputs = trainer.data_collator(list(trainer.train_dataset))
    chosen, rejected = trainer.compute_ref_log_probs(trainer.model.eval(), inputs)
    with torch.no_grad():
        loss = trainer.compute_loss(trainer.model, inputs).item()
    means = {name: values[-1] for name, values in trainer._metrics["eval"].items()}
    return chosen, rejected, loss, means
