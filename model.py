"""The GPT of nanoGPT: same config fields, parameter names and call signatures, so that its checkpoints load.

A decoder-only transformer with learned positions, pre-norm blocks and a head tied to the token embedding (Radford
et al. 2019). Beyond nanoGPT, `generate` answers many prompts of different lengths at once with a key-value cache.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

NEWLINE_ID = 0  # ends a line; an answer stops before it
PERIOD_ID = 7  # ends a sentence; an answer stops after it
DIGIT_IDS = range(12, 22)


@dataclass
class GPTConfig:
    block_size: int = 256  # longest sequence, in characters
    vocab_size: int = 74
    n_layer: int = 6
    n_head: int = 6
    n_embd: int = 348
    dropout: float = 0.0
    bias: bool = False  # of the linear layers and layer norms


class LayerNorm(nn.Module):
    """Layer normalisation whose bias can be left out."""

    def __init__(self, width: int, bias: bool):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))
        self.bias = nn.Parameter(torch.zeros(width)) if bias else None

    def forward(self, x: Tensor) -> Tensor:
        return F.layer_norm(x, self.weight.shape, self.weight, self.bias, 1e-5)


class Cache:
    """Keys and values of every position so far, one pair of (B, n_head, length, head_width) tensors per layer."""

    def __init__(self, config: GPTConfig, batch: int, length: int, like: Tensor):
        shape = (batch, config.n_head, length, config.n_embd // config.n_head)
        self.layers = [(like.new_zeros(shape), like.new_zeros(shape)) for _ in range(config.n_layer)]
        self.rows = torch.arange(batch, device=like.device)[:, None]

    def update(self, layer: int, positions: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """Store new keys and values (B, n_head, T, head_width) at `positions` (B, T); return all that are in use."""
        used = int(positions.max()) + 1
        for stored, new in zip(self.layers[layer], (k, v), strict=True):
            stored[self.rows, :, positions] = new.transpose(1, 2)
        return self.layers[layer][0][:, :, :used], self.layers[layer][1][:, :, :used]


class CausalSelfAttention(nn.Module):
    def __init__(self, config: GPTConfig, layer: int):
        super().__init__()
        self.c_attn = nn.Linear(config.n_embd, 3 * config.n_embd, bias=config.bias)
        self.c_proj = nn.Linear(config.n_embd, config.n_embd, bias=config.bias)
        self.resid_dropout = nn.Dropout(config.dropout)
        self.n_head, self.dropout, self.layer = config.n_head, config.dropout, layer

    def forward(self, x: Tensor, positions: Tensor, cache: Cache | None, visible: Tensor | None) -> Tensor:
        batch, length, width = x.shape
        q, k, v = (
            part.view(batch, length, self.n_head, width // self.n_head).transpose(1, 2)
            for part in self.c_attn(x).split(width, dim=2)
        )
        if cache is not None:
            k, v = cache.update(self.layer, positions, k, v)
            visible = torch.arange(k.shape[2], device=x.device) <= positions[:, None, :, None]  # (B, 1, T, used)
        y = _attend(q, k, v, visible, self.dropout if self.training else 0.0)
        return self.resid_dropout(self.c_proj(y.transpose(1, 2).reshape(batch, length, width)))


class MLP(nn.Module):
    def __init__(self, config: GPTConfig):
        super().__init__()
        self.c_fc = nn.Linear(config.n_embd, 4 * config.n_embd, bias=config.bias)
        self.c_proj = nn.Linear(4 * config.n_embd, config.n_embd, bias=config.bias)
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, x: Tensor) -> Tensor:
        return self.dropout(self.c_proj(F.gelu(self.c_fc(x))))


class Block(nn.Module):
    def __init__(self, config: GPTConfig, layer: int):
        super().__init__()
        self.ln_1 = LayerNorm(config.n_embd, config.bias)
        self.attn = CausalSelfAttention(config, layer)
        self.ln_2 = LayerNorm(config.n_embd, config.bias)
        self.mlp = MLP(config)

    def forward(self, x: Tensor, positions: Tensor, cache: Cache | None, visible: Tensor | None) -> Tensor:
        x = x + self.attn(self.ln_1(x), positions, cache, visible)
        return x + self.mlp(self.ln_2(x))


class GPT(nn.Module):
    def __init__(self, config: GPTConfig):
        super().__init__()
        if config.n_embd % config.n_head:
            raise ValueError(f"n_embd {config.n_embd} is not divisible by n_head {config.n_head}")
        self.config = config
        self.transformer = nn.ModuleDict(
            {
                "wte": nn.Embedding(config.vocab_size, config.n_embd),
                "wpe": nn.Embedding(config.block_size, config.n_embd),
                "drop": nn.Dropout(config.dropout),
                "h": nn.ModuleList(Block(config, layer) for layer in range(config.n_layer)),
                "ln_f": LayerNorm(config.n_embd, config.bias),
            }
        )
        self.lm_head = nn.Linear(config.n_embd, config.vocab_size, bias=False)
        self.lm_head.weight = self.transformer.wte.weight  # tied
        self.apply(self._initialise)
        for name, parameter in self.named_parameters():
            if name.endswith("c_proj.weight"):  # every residual branch, scaled by their number (GPT-2)
                nn.init.normal_(parameter, std=0.02 / math.sqrt(2 * config.n_layer))

    @staticmethod
    def _initialise(module: nn.Module) -> None:
        if isinstance(module, nn.Linear | nn.Embedding):
            nn.init.normal_(module.weight, std=0.02)
        if isinstance(module, nn.Linear) and module.bias is not None:
            nn.init.zeros_(module.bias)

    def hidden_states(
        self,
        idx: Tensor,
        positions: Tensor | None = None,
        cache: Cache | None = None,
        visible: Tensor | None = None,
    ) -> Tensor:
        """Final hidden states (B, T, n_embd) of ids (B, T); with a cache, of new ids at `positions` (B, T).

        Without a cache, `visible` (B, 1, T, T) says which ids each id looks at; without it, all up to itself.
        """
        if positions is None:
            if idx.shape[1] > self.config.block_size:
                raise ValueError(f"{idx.shape[1]} characters do not fit into the block of {self.config.block_size}")
            positions = torch.arange(idx.shape[1], device=idx.device)[None]
        x = self.transformer.drop(self.transformer.wte(idx) + self.transformer.wpe(positions))
        for block in self.transformer.h:
            x = block(x, positions, cache, visible)
        return self.transformer.ln_f(x)

    def forward(
        self, idx: Tensor, targets: Tensor | None = None, return_hidden_states: bool = False, full_seq: bool = False
    ):
        """Return (logits, loss), or (logits, loss, hidden) on request.

        idx (B, T) -> logits (B, T, vocab_size) with `targets` or `full_seq`, else (B, 1, vocab_size) of the last
        position; loss is the mean cross-entropy in nats over targets other than -1, None without targets.
        """
        hidden = self.hidden_states(idx)
        scored = hidden if full_seq or targets is not None else hidden[:, -1:]
        logits = self.lm_head(scored)
        loss = None
        if targets is not None:
            loss = F.cross_entropy(logits.flatten(0, 1), targets.flatten(), ignore_index=-1)
        return (logits, loss, hidden) if return_hidden_states else (logits, loss)

    @torch.no_grad()
    def generate(
        self,
        idx: Tensor,
        max_new_tokens: int,
        temperature: float = 1.0,
        top_k: int | None = None,
        lengths: Tensor | None = None,
        generator: torch.Generator | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Continue each row of idx (B, T) until a full stop, before a newline, or by at most `max_new_tokens` ids.

        `lengths` (B,) says how many ids of each row are prompt (all of them without it), the rest is padding.
        Temperature 0 is greedy. Every row draws its own random numbers: a batch gives what its rows give one by one.
        Returns the ids (B, longest row), shorter rows filled with newlines, and the hidden states (B, n_embd) that
        gave each row's last id.
        """
        if temperature < 0:
            raise ValueError(f"temperature is {temperature}; it must be 0 (greedy) or more")
        rows = torch.arange(len(idx), device=idx.device)
        lengths = torch.full_like(rows, idx.shape[1]) if lengths is None else lengths.to(idx.device)
        if len(idx) == 0 or int(lengths.min()) < 1:
            raise ValueError("every prompt needs at least one character")
        ids = torch.cat([idx, idx.new_zeros(len(idx), max_new_tokens)], dim=1)
        ids[torch.arange(ids.shape[1], device=idx.device) >= lengths[:, None]] = NEWLINE_ID
        draws = _uniform(len(idx), max_new_tokens, generator).to(idx.device) if temperature else None
        cache = Cache(self.config, len(idx), min(ids.shape[1], self.config.block_size), self.lm_head.weight)
        running = torch.ones_like(rows, dtype=torch.bool)
        hidden = self._prefill(ids[:, : idx.shape[1]], lengths, cache)
        for step in range(max_new_tokens):
            chosen = _pick(self.lm_head(hidden), temperature, top_k, draws[:, step] if temperature else None)
            running = running & (chosen != NEWLINE_ID)
            ids[rows[running], lengths[running]] = chosen[running]
            lengths = lengths + running
            running = running & (chosen != PERIOD_ID)
            if not running.any() or step + 1 == max_new_tokens:
                break
            if int(lengths.max()) > self.config.block_size:
                latest = self._hidden_of_window(ids, lengths)
            else:
                last = (lengths - 1)[:, None]
                latest = self.hidden_states(ids.gather(1, last), last, cache)[:, 0]
            hidden = torch.where(running[:, None], latest, hidden)
        return ids[:, : int(lengths.max())], hidden

    def _prefill(self, idx: Tensor, lengths: Tensor, cache: Cache) -> Tensor:
        """Hidden states (B, n_embd) at the last of each row's `lengths` (B,) ids; fills the cache if they fit."""
        if idx.shape[1] > self.config.block_size:
            return self._hidden_of_window(idx, lengths)
        positions = torch.arange(idx.shape[1], device=idx.device).expand(len(idx), -1)
        return self.hidden_states(idx, positions, cache)[cache.rows[:, 0], lengths - 1]

    def _hidden_of_window(self, ids: Tensor, lengths: Tensor) -> Tensor:
        """The same without a cache, where a row has outgrown the block: only its last block_size ids are seen."""
        start = (lengths - self.config.block_size).clamp(min=0)[:, None]
        window = start + torch.arange(min(self.config.block_size, ids.shape[1]), device=ids.device)
        last = lengths - 1 - start[:, 0]
        return self.hidden_states(ids.gather(1, window))[torch.arange(len(ids), device=ids.device), last]

    def get_num_params(self, non_embedding: bool = True) -> int:
        """Number of parameters; the position embedding counts only if `non_embedding` is false, the tied head once."""
        count = sum(parameter.numel() for parameter in self.parameters())
        return count - self.transformer.wpe.weight.numel() if non_embedding else count

    def crop_block_size(self, block_size: int) -> None:
        """Forget the positions from `block_size` on."""
        if not 0 < block_size <= self.config.block_size:
            raise ValueError(f"block_size must be 1 to {self.config.block_size}, not {block_size}")
        self.config.block_size = block_size
        self.transformer.wpe.weight = nn.Parameter(self.transformer.wpe.weight[:block_size].detach().clone())

    def configure_optimizers(
        self, weight_decay: float, learning_rate: float, betas: tuple[float, float], device_type: str
    ) -> torch.optim.AdamW:
        """AdamW that decays the matrices and leaves gains and biases alone; the fused kernel where it exists."""
        decayed = [p for p in self.parameters() if p.requires_grad and p.dim() >= 2]
        others = [p for p in self.parameters() if p.requires_grad and p.dim() < 2]
        groups = [{"params": decayed, "weight_decay": weight_decay}, {"params": others, "weight_decay": 0.0}]
        return torch.optim.AdamW(groups, lr=learning_rate, betas=betas, fused=device_type in ("cpu", "cuda"))


def _attend(q: Tensor, k: Tensor, v: Tensor, visible: Tensor | None, dropout: float) -> Tensor:
    """Scaled dot-product attention of (B, n_head, T, head_width); causal where `visible` is not given."""
    settings = {"attn_mask": visible, "dropout_p": dropout, "is_causal": visible is None}
    if not q.is_cpu:
        return F.scaled_dot_product_attention(q, k, v, **settings)
    with torch.autocast("cpu", enabled=False):  # in bfloat16 its backward pass takes four times as long on a CPU
        return F.scaled_dot_product_attention(q.float(), k.float(), v.float(), **settings)


def _uniform(rows: int, columns: int, generator: torch.Generator | None) -> Tensor:
    device = generator.device if generator is not None else "cpu"
    return torch.rand(rows, columns, generator=generator, device=device)


def _pick(logits: Tensor, temperature: float, top_k: int | None, draw: Tensor | None) -> Tensor:
    """One id per row of logits (B, vocab_size): the largest, or the inverse distribution function at `draw` (B,)."""
    if temperature == 0:
        return logits.argmax(dim=-1)
    logits = logits.float() / temperature
    if top_k is not None:
        smallest = logits.topk(min(top_k, logits.shape[-1])).values[:, -1:]
        logits = logits.masked_fill(logits < smallest, -math.inf)
    cumulative = logits.softmax(dim=-1).cumsum(dim=-1)
    total = cumulative[:, -1:]
    passed = (cumulative <= draw[:, None] * total).sum(dim=-1)
    return torch.minimum(passed, (cumulative < total).sum(dim=-1))  # rounding never picks an impossible id
