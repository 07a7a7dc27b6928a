"""Write a tiny random Llama for vLLM to serve: `python make_tiny_model.py DIRECTORY`.

It takes seconds and no download. The answers are nonsense, but the server around them is the real one.
"""

import sys
from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

VOCABULARY_SIZE = 512
# Coding agents send system prompts of tens of thousands of bytes, and a token here is hardly more than one.
CONTEXT_LENGTH_TOKENS = 131_072
ROLES = ("system", "user", "assistant", "tool")
CORPUS = (
    "A gate stands between the applications and the models and counts every token that passes.",
    "Whoever brings a key may ask; whoever asks too often must wait until the next minute.",
    '{"name": "get_weather", "arguments": {"city": "Paris", "days": 3}}',
)
CHAT_TEMPLATE = (
    "{% if tools %}<|system|>{{ tools | tojson }}{% endif %}"
    "{% for message in messages %}"
    "<|{{ message.role }}|>{{ message.content or '' }}"
    "{% if message.tool_calls %}{{ message.tool_calls | tojson }}{% endif %}"
    "{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)


def tiny_tokenizer() -> PreTrainedTokenizerFast:
    """Return a tokenizer that encodes any text (byte-level BPE), with one special token per chat role."""
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY_SIZE,
        min_frequency=1,
        special_tokens=["<s>", "</s>", *(f"<|{role}|>" for role in ROLES)],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    bpe.train_from_iterator(CORPUS, trainer)
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=bpe, bos_token="<s>", eos_token="</s>", pad_token="</s>")
    tokenizer.chat_template = CHAT_TEMPLATE
    return tokenizer


def tiny_model(tokenizer: PreTrainedTokenizerFast) -> LlamaForCausalLM:
    """Return a two-layer Llama with random weights, the same ones every time."""
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=2,
        max_position_embeddings=CONTEXT_LENGTH_TOKENS,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        tie_word_embeddings=True,
    )
    return LlamaForCausalLM(config).to(torch.float32)


def main(directory: Path) -> None:
    """Write tokenizer, chat template and weights to `directory`, in the layout of a Hugging Face model."""
    tokenizer = tiny_tokenizer()
    tokenizer.save_pretrained(directory)
    tiny_model(tokenizer).save_pretrained(directory)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
