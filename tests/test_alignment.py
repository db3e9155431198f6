import functools
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

from medtuner.alignment import Encoded, SubwordEncoder, cut_windows, tag_subwords, tag_units
from medtuner.batches import IGNORED, make_items
from medtuner.corpora import load_corpus
from medtuner.documents import Document, Span, find_words
from medtuner.errors import DataError, ModelError
from medtuner.labels import LabelSpace
from medtuner.ledger import Account, Ledger

SPACE = LabelSpace(kind="train", types=("T047", "T103"))
TEXT = 'Naïve β-catenin levels (IL-2), in "μ-opioid" mice:\t5µg/ml…  né\u0301e 東京 😀 fever.'


def _train(kind: str) -> PreTrainedTokenizerFast:
    """Train a real tokeniser of one family on MedMentions sentences."""
    texts = [document.text for document in load_corpus("medmentions-zs").documents[:2000]]
    if kind == "wordpiece":
        tokenizer = Tokenizer(models.WordPiece(unk_token="<unk>"))
        tokenizer.normalizer = normalizers.BertNormalizer()
        tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
        trainer: Any = trainers.WordPieceTrainer(vocab_size=3000, special_tokens=["<s>", "</s>", "<unk>", "<pad>"])
    elif kind == "sentencepiece":
        tokenizer = Tokenizer(models.Unigram())
        tokenizer.normalizer = normalizers.NFKC()
        tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
        trainer = trainers.UnigramTrainer(
            vocab_size=3000, unk_token="<unk>", special_tokens=["<s>", "</s>", "<unk>", "<pad>"], show_progress=False
        )
    else:
        tokenizer = Tokenizer(models.BPE())
        tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=kind == "bpe-prefix-space")
        tokenizer.decoder = decoders.ByteLevel()
        trainer = trainers.BpeTrainer(
            vocab_size=3000,
            special_tokens=["<s>", "</s>", "<pad>"],
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        )
    tokenizer.train_from_iterator(texts, trainer)
    ids = [("<s>", tokenizer.token_to_id("<s>")), ("</s>", tokenizer.token_to_id("</s>"))]
    if kind == "bpe-trimmed":
        tokenizer.post_processor = processors.RobertaProcessing(ids[1], ids[0], trim_offsets=True)
    else:
        tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A </s>", special_tokens=ids)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="<pad>")


@pytest.fixture(
    scope="module", params=["wordpiece", "bpe-trimmed", "bpe-untrimmed", "bpe-prefix-space", "sentencepiece"]
)
def encoder(request: pytest.FixtureRequest) -> SubwordEncoder:
    return SubwordEncoder(_train(request.param), max_tokens=34, overlap=4)


def test_words_and_subwords_meet_whatever_the_tokeniser(encoder: SubwordEncoder) -> None:
    document = Document(id="1", text=TEXT)
    (encoded,) = encoder.encode([document])
    words = {TEXT[start:end] for start, end in find_words(document)}
    assert {"Naïve", "β", "-", "IL", "2", "(", "😀", "fever"} <= words
    # Units are words, or neighbouring words that one subword glues; together they are exactly the words.
    assert [c for s, e in encoded.units for c in TEXT[s:e] if not c.isspace()] == [c for c in TEXT if not c.isspace()]
    named = encoded.unit_of[encoded.unit_of >= 0]
    assert np.all(np.diff(named) >= 0), "subwords stand in text order"
    assert set(named) == set(range(len(encoded.units)))


def test_every_medmentions_mention_survives_every_tokeniser(encoder: SubwordEncoder) -> None:
    documents = load_corpus("medmentions-zs:validation").documents
    space = LabelSpace(kind="train", types=("T005", "T037", "T091", "T092", "T201"))
    account = Account()
    for encoded in encoder.encode(documents):
        unit_tags = tag_units(encoded, space, account)
        tags = tag_subwords(encoded, unit_tags)
        begins = (tags > 0) & (tags % 2 == 1)
        # One B a mention, and where tags are read back the same mentions stand there.
        assert int(begins.sum()) == len(encoded.document.spans)
        assert read_back(encoded, tags, space) == {(s.start, s.end, s.labels[0]) for s in encoded.document.spans}
    assert (account.mentions, account.kept, account.losses) == (1711, 1711, [])


def read_back(encoded: Encoded, tags: np.ndarray, space: LabelSpace) -> set[tuple[int, int, str]]:
    """Turn subword tags into spans the plain way, subword by subword."""
    spans: list[list[Any]] = []
    for unit, tag in zip(encoded.unit_of, tags, strict=True):
        if tag in (IGNORED, 0):
            continue
        start, end = encoded.units[unit]
        if tag % 2 == 1:
            spans.append([start, end, space.types[(tag - 1) // 2]])
        else:
            spans[-1][1] = end
    return {(start, end, label) for start, end, label in spans}


def test_losses_are_entered_with_their_reasons(starter_tokenizer) -> None:
    text = "renal failure in mice\x00 and \x01 rats"
    spans = (
        Span(start=0, end=13, labels=("T047",)),
        Span(start=0, end=5, labels=("T103",)),
        Span(start=8, end=13, labels=("T047",)),
        Span(start=17, end=19, labels=("T103",)),
        Span(start=17, end=21, labels=("T204",)),
        Span(start=27, end=28, labels=("T103",)),
    )
    encoder = SubwordEncoder(starter_tokenizer, max_tokens=128, overlap=8)
    ledger = Ledger()
    account = ledger.account("train")
    (encoded,) = encoder.encode([Document(id="d1", text=text, spans=spans)])
    tag_units(encoded, SPACE, account)
    assert account.mentions == account.kept + sum(account.lost.values()) == 6
    assert account.lost == {
        "it overlaps a mention as long or longer": 1,
        "it begins or ends inside a word": 2,
        "its type is outside the label space": 1,
        "the tokeniser gives its first word no subword": 1,
    }
    with pytest.raises(DataError, match=r"data.train: 4 of 6 mentions would be lost .*d1 .*data.max_lost"):
        ledger.refuse_above(0.5)
    ledger.refuse_above(0.9)
    assert len(ledger.to_json()["train"]["losses"]) == 5  # type: ignore[index]


@settings(max_examples=60, deadline=None)
@given(length=st.integers(0, 300), max_tokens=st.integers(11, 60), overlap=st.integers(0, 4))
def test_windows_cover_every_subword_once(length: int, max_tokens: int, overlap: int) -> None:
    encoder = SubwordEncoder(_starter(), max_tokens=max_tokens, overlap=overlap)
    document = Document(id="1", text="a " * length)
    (encoded,) = encoder.encode([document])
    assert len(encoded.subwords) == length
    windows = cut_windows(encoded, encoder, document=0)
    owned = [index for window in windows for index in range(window.own_first, window.own_last)]
    assert owned == list(range(length))
    for window in windows:
        assert window.last - window.first <= encoder.window
        assert window.first <= window.own_first <= window.own_last <= window.last
        if window.first > 0:
            assert window.own_first - window.first >= overlap
        if window.last < length:
            assert window.last - window.own_last >= overlap
    # In training too: every subword is labelled in one window exactly.
    items = make_items([encoded], encoder, [np.zeros(length, dtype=np.int64)])
    assert sum(item.weight for item in items) == length
    assert all(len(item.ids) <= max_tokens for item in items)


@functools.cache
def _starter():
    from medtuner.models import find_encoder, load_tokenizer

    return load_tokenizer(find_encoder("starter"))


def test_slow_tokenisers_are_refused() -> None:
    class Slow:
        is_fast = False
        name_or_path = "some/slow"

    with pytest.raises(ModelError, match="some/slow: its tokeniser is not a fast one"):
        SubwordEncoder(Slow(), max_tokens=10, overlap=0)


def test_bc5cdr_mentions_are_cut_by_words_as_rarely_as_documented(shared_data) -> None:
    import gzip

    mentions = cut = 0
    text: dict[str, str] = {}
    for line in gzip.open(shared_data / "bc5cdr" / "test.pubtator.txt.gz", "rt", encoding="utf-8"):
        fields = line.rstrip("\n").split("\t")
        if "|t|" in line or "|a|" in line:
            identifier, _, content = line.rstrip("\n").split("|", 2)
            text[identifier] = f"{text[identifier]} {content}" if identifier in text else content
        elif len(fields) >= 5 and fields[1].isdigit():
            words = find_words(Document(id="", text=text[fields[0]]))
            mentions += 1
            cut += int(fields[1]) not in {w[0] for w in words} or int(fields[2]) not in {w[1] for w in words}
    assert (mentions, cut) == (9809, 5)
