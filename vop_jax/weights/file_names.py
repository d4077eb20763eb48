"""Names of the files in a CLIP's folder."""

CONFIG = "config.json"
# Possible file names of a folder's weights, in order of preference: Hugging Face's
# names, then open_clip's.
WEIGHTS = "model.safetensors"
FILE_NAMES = (
    WEIGHTS,
    "model.safetensors.index.json",
    "pytorch_model.bin",
    "pytorch_model.bin.index.json",
    "open_clip_model.safetensors",
    "open_clip_pytorch_model.bin",
)
# What describes a model's sizes and frames, in the files of one library or another.
DESCRIPTIONS = (
    CONFIG,
    "preprocessor_config.json",
    "processor_config.json",
    "open_clip_config.json",
)
TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "vocab.json",
    "merges.txt",
    "special_tokens_map.json",
    "added_tokens.json",
)
# What was trained, in a run's or a CLIP's folder.
TUNED = "tuned.safetensors"
