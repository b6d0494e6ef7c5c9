import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import (
    CLIPTextConfig,
    CLIPTextModel,
    GPT2Config,
    GPT2Model,
    PreTrainedTokenizerFast,
    T5Config,
    T5EncoderModel,
)

from paris_p2p.codec.text import load_text_encoder
from paris_p2p.errors import BlobError, PresetError, UsageError


@pytest.fixture(scope="module")
def minilm():
    return load_text_encoder("minilm")


def save_tokenizer(folder) -> None:
    words = {
        word: index for index, word in enumerate(["<pad>", "<eos>", "<unk>", "a", "red", "ball", "rolls"])
    }
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", eos_token="<eos>", unk_token="<unk>"
    ).save_pretrained(folder)


def save_t5(folder) -> None:
    torch.manual_seed(0)
    T5EncoderModel(
        T5Config(vocab_size=8, d_model=16, d_kv=8, d_ff=16, num_layers=1, num_heads=2)
    ).save_pretrained(folder)
    save_tokenizer(folder)


def save_clip(folder) -> None:
    torch.manual_seed(0)
    CLIPTextModel(
        CLIPTextConfig(
            vocab_size=8,
            hidden_size=16,
            intermediate_size=16,
            num_hidden_layers=1,
            num_attention_heads=2,
            eos_token_id=1,
            bos_token_id=0,
        )
    ).save_pretrained(folder)
    save_tokenizer(folder)


def test_minilm_gives_tokens_a_mask_and_a_unit_vector(minilm):
    batch = minilm.encode(["a red ball rolls", "", "a red ball rolls over the green hill in the rain"])
    assert batch.tokens.shape == (3, 32, 384)
    assert batch.mask.sum(1).tolist() == [6, 2, 13]
    assert torch.allclose(batch.pooled.norm(dim=1), torch.ones(3), atol=1e-5)
    assert not batch.tokens[~batch.mask].any()


def test_minilm_puts_like_captions_nearer_than_unlike_ones(minilm):
    ball, sphere, tax = minilm.encode(
        ["a red ball rolls", "a crimson sphere is rolling", "the tax office opens at nine"]
    ).pooled
    assert ball @ sphere > ball @ tax + 0.2


def test_an_embedding_does_not_depend_on_its_neighbours_in_the_batch(minilm):
    alone = minilm.encode(["a red ball"])
    among = minilm.encode(["something else entirely", "a red ball"])
    assert torch.allclose(alone.tokens[0], among.tokens[1], atol=1e-5)


def test_long_captions_are_cut_to_the_tokens_asked_for():
    batch = load_text_encoder("minilm", tokens=8).encode(["word " * 5000])
    assert batch.tokens.shape == (1, 8, 384)
    assert bool(batch.mask.all())


@pytest.mark.parametrize("save", [save_t5, save_clip])
def test_a_transformers_folder_is_an_encoder(tmp_path, save):
    save(tmp_path)
    encoder = load_text_encoder(f"transformers:{tmp_path}", tokens=6)
    batch = encoder.encode(["a red ball", "rolls"])
    assert batch.tokens.shape == (2, 6, encoder.dim) == (2, 6, 16)
    assert batch.pooled.shape == (2, encoder.pooled_dim)
    assert batch.mask.sum(1).tolist() == [3, 1]


def test_the_hash_pins_weights_and_tokenizer(tmp_path):
    save_t5(tmp_path)
    pinned = load_text_encoder(f"transformers:{tmp_path}").sha256
    assert load_text_encoder("transformers:elsewhere/gone", tmp_path, sha256=pinned).sha256 == pinned
    tokenizer = tmp_path / "tokenizer.json"
    tokenizer.write_text(tokenizer.read_text().replace("rolls", "falls"))
    with pytest.raises(BlobError, match="the run was made with"):
        load_text_encoder(f"transformers:{tmp_path}", sha256=pinned)


def test_architectures_outside_the_table_are_refused(tmp_path):
    GPT2Model(GPT2Config(vocab_size=8, n_positions=8, n_embd=8, n_layer=1, n_head=1)).save_pretrained(
        tmp_path
    )
    with pytest.raises(PresetError, match="GPT2Model, not a text encoder known here"):
        load_text_encoder(f"transformers:{tmp_path}")


def test_an_encoder_without_its_tokenizer_is_refused(tmp_path):
    save_t5(tmp_path)
    for path in (*tmp_path.glob("tokenizer*"), *tmp_path.glob("special_tokens*")):
        path.unlink()
    with pytest.raises(UsageError, match="no tokenizer in"):
        load_text_encoder(f"transformers:{tmp_path}")


def test_names_that_lead_nowhere_say_what_to_use(tmp_path):
    with pytest.raises(PresetError, match="use minilm or transformers:"):
        load_text_encoder("word2vec")
    with pytest.raises(UsageError, match="neither a folder on this machine nor a hub id"):
        load_text_encoder(f"transformers:{tmp_path}/nothing")


def test_a_prompt_is_said_to_be_cut_by_its_tokens_or_else_by_its_characters(tmp_path):
    save_t5(tmp_path)
    encoder = load_text_encoder(f"transformers:{tmp_path}", tokens=3)
    blank = "a red ball" + " " * 2500
    (tokens, characters) = encoder.say_cut(["a red ball", "a red ball rolls", blank, blank])
    assert tokens == "'a red ball rolls' has 4 text tokens, 3 are read: the end of it counts for nothing"
    assert "has 2510 characters, 2000 are read" in characters
