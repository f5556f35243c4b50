"""The GPT of nanoGPT, with its config fields, parameter names and calls: its checkpoints load.

A decoder-only transformer with learned positions, pre-norm blocks and a head tied to the token
embedding (Radford et al. 2019). Beyond nanoGPT, `generate` answers many prompts of different
lengths at once, with a key-value cache.
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
    """Keys and values of all ids so far: per layer a pair of (B, n_head, length, head_width).

    What has been computed for an id never changes, since no id sees a later one. So each new id
    costs one position, not the whole sequence again.
    """

    def __init__(self, config: GPTConfig, batch: int, length: int, like: Tensor):
        shape = (batch, config.n_head, length, config.n_embd // config.n_head)
        self.layers = [
            (like.new_zeros(shape), like.new_zeros(shape)) for _ in range(config.n_layer)
        ]
        self.rows = torch.arange(batch, device=like.device)[:, None]  # (B, 1)

    def update(
        self, layer: int, position_ids: Tensor, k: Tensor, v: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Store T new keys and values per sequence, and return all that are in use so far.

        k and v are (B, n_head, T, head_width) and go to `position_ids` (B, T). Returned are keys
        and values (B, n_head, used, head_width). A shorter sequence has zeros, or values of its
        padding, behind its own; the attention mask hides them.
        """
        used = int(position_ids.max()) + 1
        for stored, new in zip(self.layers[layer], (k, v), strict=True):
            # Two index tensors with a slice between them: their axes (B, T) come first, so that
            # n_head stands third.
            stored[self.rows, :, position_ids] = new.transpose(1, 2)
        return self.layers[layer][0][:, :, :used], self.layers[layer][1][:, :, :used]


class CausalSelfAttention(nn.Module):
    """Every id gathers from those before it, in n_head heads of n_embd / n_head numbers each."""

    def __init__(self, config: GPTConfig, layer: int):
        super().__init__()
        self.c_attn = nn.Linear(config.n_embd, 3 * config.n_embd, bias=config.bias)
        self.c_proj = nn.Linear(config.n_embd, config.n_embd, bias=config.bias)
        self.resid_dropout = nn.Dropout(config.dropout)
        self.n_head, self.dropout, self.layer = config.n_head, config.dropout, layer

    def forward(
        self, x: Tensor, position_ids: Tensor, cache: Cache | None, attention_mask: Tensor | None
    ) -> Tensor:
        batch, length, width = x.shape  # (B, T, n_embd)
        q, k, v = (  # (B, n_head, T, head_width) each
            part.view(batch, length, self.n_head, width // self.n_head).transpose(1, 2)
            for part in self.c_attn(x).split(width, dim=2)
        )
        if cache is not None:
            k, v = cache.update(self.layer, position_ids, k, v)
            # Each new id sees what stands at its own position or before, in its own sequence.
            key_positions = torch.arange(k.shape[2], device=x.device)  # (used,)
            attention_mask = key_positions <= position_ids[:, None, :, None]  # (B, 1, T, used)
        y = _attend(q, k, v, attention_mask, self.dropout if self.training else 0.0)
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

    def forward(
        self, x: Tensor, position_ids: Tensor, cache: Cache | None, attention_mask: Tensor | None
    ) -> Tensor:
        x = x + self.attn(self.ln_1(x), position_ids, cache, attention_mask)
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
            # The 2 * n_layer branches that end in a c_proj add up in the residual stream: with this
            # scale their sum is as large in a deep model as in a shallow one (GPT-2).
            if name.endswith("c_proj.weight"):
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
        position_ids: Tensor | None = None,
        cache: Cache | None = None,
        attention_mask: Tensor | None = None,
    ) -> Tensor:
        """Final hidden states (B, T, n_embd) of ids (B, T).

        position_ids    (B, T)        place of each id in its text; 0 to T - 1 if not given
        cache                         keys and values of all ids before these; they are added to it
        attention_mask  (B, 1, T, T)  True where an id (third axis) sees another (last axis); each
                                      sees itself and all before it if this is not given, and
                                      always with a cache
        """
        if position_ids is None:
            if idx.shape[1] > self.config.block_size:
                most = self.config.block_size
                raise ValueError(f"{idx.shape[1]} characters do not fit into the block of {most}")
            position_ids = torch.arange(idx.shape[1], device=idx.device)[None]
        x = self.transformer.drop(self.transformer.wte(idx) + self.transformer.wpe(position_ids))
        for block in self.transformer.h:
            x = block(x, position_ids, cache, attention_mask)
        return self.transformer.ln_f(x)

    def forward(
        self,
        idx: Tensor,
        targets: Tensor | None = None,
        return_hidden_states: bool = False,
        full_seq: bool = False,
    ):
        """Return (logits, loss), or (logits, loss, hidden) on request.

        idx (B, T) -> logits (B, T, vocab_size) with `targets` or `full_seq`, else those of the last
        position, (B, 1, vocab_size). The loss is the mean cross-entropy, in nats, over the targets
        other than -1; without targets it is None.
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
        """Continue each prompt up to a full stop, to a newline, or by `max_new_tokens` ids.

        idx (B, T) holds a prompt a row. `lengths` (B,) says how many ids of each row are prompt
        (all of them, if not given); the rest is padding. Temperature 0 is greedy. Each sequence
        draws its own random numbers: a batch gives what its prompts would give one by one.

        Returned are ids (B, longest sequence), prompts included and shorter sequences filled with
        newlines, and the hidden states (B, n_embd) that gave each sequence's last id.
        """
        if temperature < 0:
            raise ValueError(f"temperature is {temperature}; it must be 0 (greedy) or more")
        rows = torch.arange(len(idx), device=idx.device)  # (B,)
        lengths = torch.full_like(rows, idx.shape[1]) if lengths is None else lengths.to(idx.device)
        if len(idx) == 0 or int(lengths.min()) < 1:
            raise ValueError("every prompt needs at least one character")
        ids = _with_room(idx, lengths, max_new_tokens)  # (B, T + max_new_tokens)
        draws = (  # (B, max_new_tokens), all at once: an ended sequence still uses up its own
            _uniform(len(idx), max_new_tokens, generator).to(idx.device) if temperature else None
        )
        longest = min(ids.shape[1], self.config.block_size)
        cache = Cache(self.config, len(idx), longest, self.lm_head.weight)
        running = torch.ones_like(rows, dtype=torch.bool)  # (B,)
        hidden = self._prefill(ids[:, : idx.shape[1]], lengths, cache)  # (B, n_embd)
        for step in range(max_new_tokens):
            draw = draws[:, step] if temperature else None
            chosen = _pick(self.lm_head(hidden), temperature, top_k, draw)  # (B,)
            running = running & (chosen != NEWLINE_ID)  # a newline ends the answer and is not in it
            ids[rows[running], lengths[running]] = chosen[running]
            lengths = lengths + running
            running = running & (chosen != PERIOD_ID)  # a full stop ends the answer and is in it
            if not running.any() or step + 1 == max_new_tokens:
                break
            # Ended sequences are computed along with the others, but keep the state they ended in.
            hidden = torch.where(running[:, None], self._next_hidden(ids, lengths, cache), hidden)
        return ids[:, : int(lengths.max())], hidden

    def _prefill(self, idx: Tensor, lengths: Tensor, cache: Cache) -> Tensor:
        """Hidden states (B, n_embd) at each prompt's last id; fills the cache if all fit in."""
        if idx.shape[1] > self.config.block_size:
            return self._hidden_of_window(idx, lengths)
        position_ids = torch.arange(idx.shape[1], device=idx.device).expand(len(idx), -1)
        return self.hidden_states(idx, position_ids, cache)[cache.rows[:, 0], lengths - 1]

    def _next_hidden(self, ids: Tensor, lengths: Tensor, cache: Cache) -> Tensor:
        """Hidden states (B, n_embd) at each sequence's last id, which is the only new one."""
        if int(lengths.max()) > self.config.block_size:
            return self._hidden_of_window(ids, lengths)
        last = (lengths - 1)[:, None]  # (B, 1)
        return self.hidden_states(ids.gather(1, last), last, cache)[:, 0]

    def _hidden_of_window(self, ids: Tensor, lengths: Tensor) -> Tensor:
        """The same where a sequence has outgrown the block: of each, the last block_size ids count.

        The window moves on by one with every id, and with it the position of every id in it: what a
        cache holds would be wrong, so all is computed again.
        """
        start = (lengths - self.config.block_size).clamp(min=0)[:, None]  # (B, 1)
        width = min(self.config.block_size, ids.shape[1])
        window = start + torch.arange(width, device=ids.device)  # (B, width)
        last = lengths - 1 - start[:, 0]  # (B,), within the window
        hidden = self.hidden_states(ids.gather(1, window))  # (B, width, n_embd)
        return hidden[torch.arange(len(ids), device=ids.device), last]

    def get_num_params(self, non_embedding: bool = True) -> int:
        """Number of parameters, the tied head counted once.

        The position embedding counts only if `non_embedding` is false, as in nanoGPT.
        """
        count = sum(parameter.numel() for parameter in self.parameters())
        return count - self.transformer.wpe.weight.numel() if non_embedding else count

    def crop_block_size(self, block_size: int) -> None:
        """Forget the positions from `block_size` on."""
        if not 0 < block_size <= self.config.block_size:
            raise ValueError(f"block_size must be 1 to {self.config.block_size}, not {block_size}")
        self.config.block_size = block_size
        self.transformer.wpe.weight = nn.Parameter(
            self.transformer.wpe.weight[:block_size].detach().clone()
        )

    def configure_optimizers(
        self,
        weight_decay: float,
        learning_rate: float,
        betas: tuple[float, float],
        device_type: str,
    ) -> torch.optim.AdamW:
        """AdamW, fused where that exists; it decays the matrices, but not gains and biases."""
        decayed = [p for p in self.parameters() if p.requires_grad and p.dim() >= 2]
        others = [p for p in self.parameters() if p.requires_grad and p.dim() < 2]
        groups = [
            {"params": decayed, "weight_decay": weight_decay},
            {"params": others, "weight_decay": 0.0},
        ]
        fused = device_type in ("cpu", "cuda")
        return torch.optim.AdamW(groups, lr=learning_rate, betas=betas, fused=fused)


def _attend(
    q: Tensor, k: Tensor, v: Tensor, attention_mask: Tensor | None, dropout: float
) -> Tensor:
    """Scaled dot-product attention of q (B, n_head, T, head_width); causal if there is no mask."""
    settings = {
        "attn_mask": attention_mask,
        "dropout_p": dropout,
        "is_causal": attention_mask is None,
    }
    if not q.is_cpu:
        return F.scaled_dot_product_attention(q, k, v, **settings)
    # On a CPU its backward pass takes four times as long in bfloat16 as in float32.
    with torch.autocast("cpu", enabled=False):
        return F.scaled_dot_product_attention(q.float(), k.float(), v.float(), **settings)


def _with_room(idx: Tensor, lengths: Tensor, more: int) -> Tensor:
    """A copy of idx (B, T) with room for `more` ids, and newlines behind each prompt."""
    ids = torch.cat([idx, idx.new_zeros(len(idx), more)], dim=1)  # (B, T + more)
    ids[torch.arange(ids.shape[1], device=idx.device) >= lengths[:, None]] = NEWLINE_ID
    return ids


def _uniform(rows: int, columns: int, generator: torch.Generator | None) -> Tensor:
    device = generator.device if generator is not None else "cpu"
    return torch.rand(rows, columns, generator=generator, device=device)


def _pick(logits: Tensor, temperature: float, top_k: int | None, draw: Tensor | None) -> Tensor:
    """One id (B,) per row of logits (B, vocab_size): the likeliest, or one drawn.

    `draw` (B,) holds a number from 0 to below 1 per row. The ids divide that interval among them in
    proportion to their probabilities; taken is the id into whose part the number falls.
    """
    if temperature == 0:
        return logits.argmax(dim=-1)
    logits = logits.float() / temperature
    if top_k is not None:
        smallest = logits.topk(min(top_k, logits.shape[-1])).values[:, -1:]  # (B, 1)
        logits = logits.masked_fill(logits < smallest, -math.inf)
    cumulative = logits.softmax(dim=-1).cumsum(dim=-1)  # (B, vocab_size): where each part ends
    total = cumulative[:, -1:]  # (B, 1): 1 but for rounding
    passed = (cumulative <= draw[:, None] * total).sum(dim=-1)  # (B,): parts below the number
    last_possible = (cumulative < total).sum(dim=-1)  # behind it all probabilities are 0
    return torch.minimum(passed, last_possible)  # so rounding never picks an impossible id
